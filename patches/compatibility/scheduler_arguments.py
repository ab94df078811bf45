"""Fields of ``ServerArgs`` about memory, batches, attention and steps."""

from __future__ import annotations

from .entry import REFUSED, WORKS, Arguments

_OUT = "leave it out"

SCHEDULER_ARGUMENTS = (
    Arguments(
        WORKS,
        "admission and overlap",
        "schedule_conservativeness disable_overlap_schedule",
        test="tests/e2e/test_serving.py",
    ),
    Arguments(
        WORKS,
        "pool size",
        "mem_fraction_static",
        why="trees are admitted, deferred and retracted by the free slots of the pool",
    ),
    Arguments(
        WORKS,
        "batch sizes and queue",
        """max_running_requests max_queued_requests chunked_prefill_size max_prefill_tokens
        prefill_max_requests scheduler_recv_interval num_continuous_decode_steps""",
        test="tests/e2e/test_server_flags.py",
    ),
    Arguments(
        WORKS,
        "prefix cache",
        "disable_radix_cache radix_eviction_policy",
        test="tests/e2e/test_server_flags.py",
    ),
    Arguments(
        WORKS,
        "tuning of the eviction policy",
        "radix_eviction_policy_config _radix_eviction_policy_explicitly_set",
        why="which cached prefix goes first, parts of forked answers among them",
    ),
    Arguments(
        REFUSED,
        "order of the queue",
        "schedule_policy",
        why="trees that wait for memory keep order of arrival",
        remedy="pass --schedule-policy fcfs or lpm",
        served=("lpm",),
        test="tests/e2e/test_server_flags.py",
    ),
    Arguments(
        REFUSED,
        "priority scheduling",
        """enable_priority_scheduling disable_priority_preemption default_priority_value
        schedule_low_priority_values_first priority_scheduling_preemption_threshold
        retraction_policy""",
        why="trees gave way and came back as wholes when run, but the urgent did not end first",
        remedy="leave it out; requests run in order of arrival",
    ),
    Arguments(
        WORKS,
        "a request that names a priority is turned away",
        "abort_on_priority_when_disabled",
        why="before the request is queued",
    ),
    Arguments(
        WORKS,
        "mixed chunks",
        "enable_mixed_chunk",
        why="forks and joins go out in batches of their own",
        test="tests/e2e/test_wider.py",
    ),
    Arguments(
        REFUSED,
        "delayed prefill",
        """enable_prefill_delayer prefill_delayer_max_delay_passes
        prefill_delayer_token_usage_low_watermark prefill_delayer_forward_passes_buckets
        prefill_delayer_wait_seconds_buckets prefill_delayer_queue_min_ratio
        prefill_delayer_max_delay_ms min_free_slots_delay prefill_decode_interval
        prefill_decode_interval_min_bs""",
        why="forks and joins enter where prefill does, and would wait with it",
        remedy=_OUT,
    ),
    Arguments(
        REFUSED,
        "page size over 1",
        "page_size",
        why="siblings would share a partly filled page",
        remedy="pass --page-size 1",
        served=(1,),
    ),
    Arguments(
        REFUSED,
        "KV in another type than the model's",
        "kv_cache_dtype quantization_param_path prefill_kv_cache_dequant_dtype",
        why="not run with forks",
        remedy="pass --kv-cache-dtype auto",
        served=("bf16", "bfloat16"),
    ),
    Arguments(
        REFUSED,
        "KV pools of hybrid models",
        """swa_full_tokens_ratio _swa_full_tokens_ratio_explicitly_set swa_prefix_tails
        disable_hybrid_swa_memory enable_encoder_swa_bounded_replay
        enable_decoder_swa_bounded_replay enable_page_major_kv_layout enable_unified_memory""",
        why="windows and states follow a row, not the text a path sees",
        remedy="serve such models without the plugin",
    ),
    Arguments(
        REFUSED,
        "state-space and linear-attention models",
        """max_mamba_cache_size mamba_ssm_dtype mamba_max_states_per_path
        enable_mamba_cache_stochastic_rounding mamba_cache_philox_rounds mamba_full_memory_ratio
        mamba_radix_cache_strategy uses_mamba_radix_cache mamba_track_interval
        enable_int8_mamba_checkpoint int8_mamba_ckpt_size mamba_backend linear_attn_backend
        linear_attn_decode_backend linear_attn_prefill_backend linear_attn_verify_backend
        enable_linear_replayssm linear_replayssm_cache_len enable_linear_replayssm_spec
        enable_scattered_sconv""",
        why="the states of several paths cannot be joined",
        remedy="serve such models without the plugin",
    ),
    Arguments(
        REFUSED,
        "hierarchical cache",
        """enable_hierarchical_cache hicache_host_memory_mode hicache_ratio hicache_size
        hicache_host_memory_fraction hicache_write_policy hicache_io_backend hicache_mem_layout
        hicache_storage_backend hicache_storage_prefetch_policy
        hicache_storage_backend_extra_config hicache_storage_prefetch_retry_poll_interval
        hicache_storage_prefetch_retry_max_attempts""",
        why="its copies between host and device have no CPU form; not run with forks",
        remedy="leave it out; the GPU prefix cache works",
        test="tests/e2e/test_wider.py",
    ),
    Arguments(
        REFUSED,
        "other prefix caches",
        """radix_cache_backend enable_lmcache lmcache_config_file enable_flexkv flexkv_config_file
        enable_unified_cache_external_linker unified_cache_external_linker_backend
        unified_cache_external_linker_config enable_linker_mla_dedup""",
        why="not run with forks",
        remedy="leave it out; the built-in prefix cache works",
    ),
    Arguments(
        REFUSED,
        "hierarchical sparse attention",
        "enable_hisparse hisparse_config",
        why="KV of a row moves between host and device by its own order",
        remedy=_OUT,
    ),
    Arguments(
        REFUSED,
        "session caches",
        "enable_session_radix_cache enable_streaming_session",
        why="a session's KV is kept under the order of its rows",
        remedy=_OUT,
    ),
    Arguments(
        REFUSED,
        "cache without the thinking",
        "strip_thinking_cache",
        why="it frees KV by position in the row, which a join changes",
        remedy="leave it out",
    ),
    Arguments(
        REFUSED,
        "models that do not generate, scoring of many items",
        "is_embedding prefill_only_disable_kv_cache enable_mis",
        why="there is nothing to fork, or the mask is another one",
        remedy="serve it without the plugin",
    ),
    Arguments(
        REFUSED,
        "memory given back between requests",
        "enable_memory_saver enable_weights_cpu_backup",
        why="needs a GPU; not run with forks",
        remedy=_OUT,
    ),
    # Attention.
    Arguments(
        REFUSED,
        "attention backend",
        "attention_backend prefill_attention_backend decode_attention_backend",
        why="forks need KV written before attention, token by token",
        remedy="pass one of multiverse, torch_native, triton, flashinfer, fa3",
        served=("multiverse", "torch_native", "triton", "flashinfer", "fa3"),
    ),
    Arguments(
        WORKS,
        "tuning of the triton backend",
        """triton_attention_reduce_in_fp32 triton_attention_num_kv_splits
        triton_attention_split_tile_size""",
        why="how one row is split, not what it sees",
    ),
    Arguments(
        REFUSED,
        "fused decode kernels",
        "enable_lean_attention enable_nvidia_megakernel enable_amd_monokernel",
        why="not run with forks",
        remedy=_OUT,
    ),
    Arguments(
        REFUSED,
        "latent and sparse attention, n-gram embeddings",
        """disable_chunked_prefix_cache flashinfer_mla_disable_ragged dsa_prefill_backend
        dsa_decode_backend dsa_paged_mqa_logits_backend dsa_topk_backend dsa_triton_union
        enable_dsa_fused_indexer qsa_indexer_dtype dsv4_prefill_backend dsv4_attn_backend
        enable_deepseek_v4_fp4_indexer c128_page_size cuda_graph_prefill_max_context
        enable_dsa_cache_layer_split ple_offload_embedding ple_offload_backend ple_offload_dir""",
        why="not run with forks; some of it needs larger pages or keeps state per row",
        remedy="serve such models without the plugin",
    ),
    Arguments(
        REFUSED,
        "another implementation of the model",
        "model_impl",
        why="not run with forks",
        remedy="pass --model-impl auto",
        served=("sglang",),
    ),
    Arguments(
        REFUSED,
        "deterministic inference",
        "enable_deterministic_inference rl_on_policy_target",
        why="its kernels and its alignment of chunks are not run with forks",
        remedy="leave it out",
    ),
    Arguments(
        REFUSED,
        "KV canary",
        "kv_canary kv_canary_real_data kv_canary_sweep_interval",
        why="it expects each row to hold the KV of its own tokens in order",
        remedy="leave it out; SGLANG_CHECK_KV_PAGE_INVARIANTS=1 works",
    ),
    # Several tokens, stages or micro-batches a step.
    Arguments(
        REFUSED,
        "speculative decoding",
        """speculative_algorithm uno_lora_path speculative_draft_model_path
        speculative_draft_model_revision speculative_draft_load_format speculative_num_steps
        speculative_eagle_topk speculative_num_draft_tokens speculative_dflash_block_size
        speculative_dspark_block_size speculative_dspark_sps_table_path
        speculative_dspark_confidence_sts_path
        speculative_dspark_align_verify_tokens_to_graph_tier speculative_accept_threshold_single
        speculative_accept_threshold_acc speculative_use_rejection_sampling
        speculative_use_block_verification speculative_token_map speculative_attention_mode
        speculative_draft_attention_backend speculative_dsa_topk_backend
        speculative_draft_kv_cache_dtype speculative_draft_window_size
        speculative_draft_sink_size speculative_moe_runner_backend speculative_moe_a2a_backend
        speculative_enable_w4a4_mxfp4_megamoe speculative_draft_model_quantization
        _speculative_draft_quantization_explicitly_set speculative_boundary_reduction
        enable_multi_layer_eagle speculative_adaptive speculative_adaptive_config
        speculative_domino_candidate_pool_size decoupled_spec_bind_endpoint
        decoupled_spec_connect_endpoints decoupled_spec_rank decoupled_spec_role spec_trace_dir
        speculative_ngram_min_bfs_breadth speculative_ngram_max_bfs_breadth
        speculative_ngram_match_type speculative_ngram_max_trie_depth speculative_ngram_capacity
        speculative_ngram_external_corpus_path speculative_ngram_external_sam_budget
        speculative_ngram_external_corpus_max_tokens decrypted_draft_config_file
        enable_draft_weights_cpu_backup enable_return_aux_hidden_states aux_hidden_state_capture
        return_aux_hidden_state_layer_ids""",
        why="a tag may fall inside a run of accepted tokens",
        remedy="serve without speculative decoding",
    ),
    Arguments(
        REFUSED,
        "diffusion models",
        "dllm_algorithm dllm_algorithm_config dllm_fdfo",
        why="they do not decode step by step",
        remedy="serve them without the plugin",
    ),
    Arguments(
        REFUSED,
        "pipeline parallelism",
        "pp_size pp_max_micro_batch_size pp_async_batch_depth enable_dynamic_chunking",
        why="a join waits for rows of other micro-batches",
        remedy="use tensor parallelism (--tp-size)",
    ),
    Arguments(
        REFUSED,
        "data-parallel attention",
        """attn_dp_size enable_dp_attention enable_dp_attention_local_control_broadcast
        enable_dp_lm_head enable_tp_lm_head_all_to_all enable_shared_experts_attn_tp
        shared_experts_tp_size enable_dense_mlp_attn_tp moe_dense_tp_size""",
        why="not run with forks: one on any rank turns the step of all ranks into a prefill",
        remedy="use tensor parallelism (--tp-size) or replicas (--dp-size)",
    ),
    Arguments(
        REFUSED,
        "context parallelism",
        """dcp_size dcp_comm_backend dcp_replicate_q_proj attn_cp_size enable_prefill_cp
        cp_strategy enable_cp_tp_group_sharing enable_cp_decode_attn_tp enable_kv_cache_sharding""",
        why="a row's KV is split over ranks by its place in the row",
        remedy="use tensor parallelism (--tp-size)",
    ),
    Arguments(
        REFUSED,
        "activations split over ranks by token",
        """enable_attn_tp_input_scattered enable_layernorm_sp enable_megamoe_for_layernorm_sp
        disable_attn_tp_gather""",
        why="not run with forks",
        remedy=_OUT,
    ),
    Arguments(
        REFUSED,
        "two-batch and single-batch overlap",
        "enable_two_batch_overlap enable_single_batch_overlap tbo_token_distribution_threshold",
        why="rows of one fork could fall into two micro-batches, one reading what the other writes",
        remedy=_OUT,
    ),
    Arguments(
        REFUSED,
        "experts across ranks: all-to-all, balancing, elastic ranks",
        """moe_a2a_backend enable_w4a4_mxfp4_megamoe deepep_v2_mode deepep_mode fuseep_mode
        deepep_dispatcher_output_dtype flashinfer_a2a_dispatch_type deepep_config
        ep_num_redundant_experts ep_dispatch_algorithm enable_eplb eplb_algorithm
        eplb_rebalance_num_iterations eplb_rebalance_layers_per_chunk
        eplb_min_rebalancing_utilization_threshold enable_waterfill elastic_ep_backend
        enable_elastic_expert_backup mooncake_ib_device ep_join_mode ep_join_rank_offset
        elastic_ep_initial_size max_ep_size elastic_ep_scale_timeout moe_dp_size dwdp_size""",
        why="not run with forks: ranks exchange tokens at every layer",
        remedy="leave it out; --ep-size works",
    ),
    Arguments(
        REFUSED,
        "prefill and decode apart",
        """disaggregation_mode disaggregation_transfer_backend disaggregation_bootstrap_port
        disaggregation_ib_device disaggregation_decode_enable_radix_cache
        disaggregation_decode_enable_offload_kvcache disaggregation_decode_retraction_backup
        num_reserved_decode_tokens disaggregation_decode_extra_slots
        disaggregation_decode_polling_interval optimistic_prefill_attempts
        disaggregation_enable_kv_checksum enable_pd_role_switch
        disaggregation_decode_host_receive_threshold disaggregation_decode_allocation_policy
        enable_pdmux pdmux_config_path sm_group_num""",
        why="a fork is a prefill that reads KV of rows that decode",
        remedy="serve prefill and decode together",
    ),
    Arguments(
        REFUSED,
        "an encoder of its own",
        """encoder_only language_only encoder_transfer_backend encoder_urls encoder_bootstrap_port
        encoder_register_urls enable_adaptive_dispatch_to_encoder enable_prefix_mm_cache""",
        why="not run with forks",
        remedy="serve the encoder with the model",
    ),
    Arguments(
        REFUSED,
        "LoRA adapters",
        """enable_lora lora_paths enable_lora_overlap_loading max_lora_rank lora_target_modules
        max_loaded_loras max_loras_per_batch lora_eviction_policy lora_backend max_lora_chunk_size
        experts_shared_outer_loras lora_use_virtual_experts lora_strict_loading
        lora_drain_wait_threshold""",
        why="no run has shown yet that paths keep their request's adapter",
        remedy="serve weights with the adapter merged",
    ),
)
