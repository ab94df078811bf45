"""Fields of ``ServerArgs`` about weights, processes, requests and what is watched."""

from __future__ import annotations

from .entry import REFUSED, WORKS, Arguments

_OUT = "leave it out"

PROCESS_ARGUMENTS = (
    # What is loaded and how it is computed: a token's KV and logits, not where they go.
    Arguments(
        WORKS,
        "what every test of the suite sets",
        """model_path dtype device port random_seed sleep_on_idle skip_server_warmup
        max_total_tokens enable_custom_logit_processor""",
        test="tests/e2e/conftest.py",
    ),
    Arguments(
        WORKS,
        "model, tokenizer, revision",
        """tokenizer_path tokenizer_mode tokenizer_backend trust_remote_code revision
        model_config_parser json_model_override_args context_length download_dir
        served_model_name weight_version""",
        why="what is served, not how it is scheduled",
    ),
    Arguments(
        WORKS,
        "loading weights",
        """load_format model_loader_extra_config startup_weight_load_mode custom_weight_loader
        weight_loader_disable_mmap weight_loader_prefetch_checkpoints
        weight_loader_prefetch_num_threads weight_loader_drop_cache_after_load
        remote_instance_weight_loader_seed_instance_ip
        remote_instance_weight_loader_seed_instance_service_port
        remote_instance_weight_loader_send_weights_group_ports
        remote_instance_weight_loader_backend
        remote_instance_weight_loader_start_seed_via_transfer_engine engine_info_bootstrap_port
        modelexpress_config model_checksum delete_ckpt_after_loading decrypted_config_file
        checkpoint_engine_wait_weights_before_ready weight_cache_mode weight_cache_socket
        weight_cache_timeout""",
        why="over before the first request",
    ),
    Arguments(
        WORKS,
        "quantized weights",
        """quantization modelopt_quant modelopt_checkpoint_restore_path
        modelopt_checkpoint_save_path modelopt_export_path quantize_and_serve rl_quant_profile""",
        why="the linear layers, token by token",
    ),
    Arguments(
        WORKS,
        "matrix kernels, precision, compilation",
        """enable_fp32_lm_head enable_tf32_matmul fp8_gemm_runner_backend fp4_gemm_runner_backend
        bf16_gemm_backend disable_flashinfer_autotune flashinfer_autotune_skip_ops
        enable_fused_qk_norm_rope enable_torch_compile enable_torch_compile_debug_mode
        torch_compile_max_bs sampling_backend""",
        why="token by token; positions are an input",
    ),
    Arguments(
        WORKS,
        "mixture of experts: kernels and placement",
        """ep_size moe_runner_backend flashinfer_mxfp4_moe_precision enable_fused_moe_sum_all_reduce
        disable_flashinfer_cutlass_moe_fp4_allgather disable_shared_experts_fusion
        enforce_shared_experts_fusion init_expert_location expert_distribution_recorder_mode
        expert_distribution_recorder_buffer_size expert_balancedness_report_mode kt_weight_path
        kt_method kt_cpuinfer kt_threadpool_count kt_num_gpu_experts
        kt_max_deferred_experts_per_token enable_paged_experts paged_experts_num_resident""",
        why="the expert layers, token by token",
    ),
    Arguments(
        WORKS,
        "weights kept off the device",
        """cpu_offload_gb offload_group_size offload_num_in_group offload_prefetch_step
        offload_mode""",
        why="weights, not KV",
    ),
    Arguments(
        WORKS,
        "CUDA graphs",
        """cuda_graph_config cuda_graph_backend_decode cuda_graph_backend_prefill
        cuda_graph_max_bs_decode cuda_graph_max_bs_prefill cuda_graph_max_seq_len_prefill
        cuda_graph_bs_decode cuda_graph_bs_prefill disable_prefill_cuda_graph
        disable_decode_cuda_graph disable_cuda_graph disable_cuda_graph_padding
        enable_profile_cuda_graph enable_cudagraph_gc debug_cuda_graph""",
        why="positions and page-table rows are inputs of a graph, set per row (read in code: this "
        "release has run on CPUs, which have no graphs)",
    ),
    Arguments(
        WORKS,
        "collectives",
        """enable_nccl_nvls enable_symm_mem disable_custom_all_reduce enable_mscclpp
        enable_torch_symm_mem pre_warm_nccl boundary_reduction enable_quant_communications
        enable_flashinfer_allreduce_fusion enforce_disable_flashinfer_allreduce_fusion
        flashinfer_allreduce_fusion_backend enable_aiter_allreduce_fusion
        disable_aiter_allreduce_fusion_in_prefill disable_aiter_allreduce_fusion_in_decode
        enable_p2p_check""",
        why="how ranks add up one layer; every rank forks by the same tokens",
    ),
    # Processes.
    Arguments(
        WORKS,
        "tensor and data parallelism",
        "tp_size dp_size",
        test="tests/e2e/test_wider.py",
    ),
    Arguments(
        WORKS,
        "processes, ports, devices",
        """nccl_port dist_timeout dist_init_addr gated_launch_port nnodes node_rank
        load_balance_method base_gpu_id gpu_id_step numa_node gc_threshold
        custom_sigquit_handler""",
        why="where processes run; give `--plugin multiverse` on every node",
    ),
    Arguments(
        REFUSED,
        "Ray actors",
        "use_ray",
        why="actors do not inherit the variable that arms a scheduler",
        remedy="start it without Ray",
    ),
    Arguments(
        REFUSED,
        "MLX",
        "mlx_enable_sampling",
        why="MLX has a model runner of its own; not run with forks",
        remedy=_OUT,
    ),
    Arguments(
        WORKS,
        "watchdogs",
        "watchdog_timeout soft_watchdog_timeout",
        why="they look at the time between steps",
    ),
    # What requests may ask for.
    Arguments(
        WORKS,
        "extras a request may ask for",
        """enable_return_hidden_states return_hidden_states_mode enable_return_routed_experts
        enable_return_indexer_topk sampling_mask_max_tokens""",
        why="a request that asks for them decodes sequentially, others fork",
    ),
    Arguments(
        WORKS,
        "grammars",
        """grammar_backend constrained_json_whitespace_pattern
        constrained_json_disable_any_whitespace constrained_json_max_whitespace_cnt
        disable_outlines_disk_cache""",
        why="see the request's fields",
    ),
    Arguments(
        REFUSED,
        "filter of tokens while thinking",
        "enable_strict_thinking",
        why="it puts a grammar on every thinking request, none of which would fork",
        remedy=_OUT,
    ),
    Arguments(
        REFUSED,
        "watermarks",
        """enable_watermark watermark_config watermark_key watermark_key_b
        watermark_context_window watermark_mixing_probability watermark_max_probability
        watermark_default_enabled watermark_enforce_all""",
        why="the mark follows the tokens of a row, which are not those of the text",
        remedy=_OUT,
    ),
    Arguments(
        WORKS,
        "images, audio, video",
        """enable_multimodal language_model_only mm_attention_backend
        enable_precise_embedding_interpolation enable_broadcast_mm_inputs_process
        mm_enable_dp_encoder mm_process_config mm_processor_worker_num mm_io_worker_num
        allowed_media_domains media_url_max_file_size_mb mm_preprocess_cache_size_mb
        trust_mm_content_hashes limit_mm_data_per_request enable_mm_global_cache
        image_processor_backend mm_global_cache_backend disable_fast_image_processor
        mm_feature_transport asr_max_buffer_seconds asr_max_concurrent_sessions""",
        why="a request with such input decodes sequentially; models with multimodal rotary "
        "positions are refused",
    ),
    Arguments(
        WORKS,
        "chat templates, parsers, tools, defaults",
        """chat_template trust_request_chat_template hf_chat_template_name completion_template
        default_chat_template_kwargs reasoning_parser tool_call_parser tool_server
        sampling_defaults preferred_sampling_params allow_auto_truncate file_storage_path
        enable_response_store""",
        why="before the request reaches the scheduler, or after the text has left it",
    ),
    # The processes around the scheduler.
    Arguments(
        WORKS,
        "several tokenizer workers",
        "tokenizer_worker_num",
        why="each worker is armed by the application it imports",
        test="tests/e2e/test_wider.py",
    ),
    Arguments(
        REFUSED,
        "tokenizer workers on one shared port",
        "enable_http_worker_reuseport",
        why="not run with the plugin's hooks in the workers",
        remedy="leave it out",
    ),
    Arguments(
        WORKS,
        "several detokenizers",
        "detokenizer_worker_num",
        test="tests/e2e/test_server_flags.py",
    ),
    Arguments(
        WORKS,
        "serving without a tokenizer",
        "skip_tokenizer_init",
        why="the scheduler reads one for its tags alone",
        test="tests/e2e/test_wider.py",
    ),
    Arguments(
        WORKS,
        "batched tokenizing",
        """enable_dynamic_batch_tokenizer dynamic_batch_tokenizer_batch_size
        dynamic_batch_tokenizer_batch_timeout enable_tokenizer_batch_encode
        disable_tokenizer_batch_decode""",
        why="text to tokens and back",
    ),
    Arguments(
        WORKS,
        "streaming",
        """stream_interval batch_notify_size stream_response_default_include_usage
        incremental_streaming_output""",
        test="tests/e2e/test_server_flags.py",
    ),
    Arguments(
        WORKS,
        "HTTP, TLS, keys",
        """host fastapi_root_path enable_http2 http2_max_concurrent_streams
        http2_initial_connection_window_size warmups ssl_keyfile ssl_certfile
        ssl_ca_certs ssl_keyfile_password enable_ssl_refresh api_key admin_api_key
        enable_cache_report return_input_ids return_output_ids""",
        why="the way to the tokenizer manager",
    ),
    Arguments(
        REFUSED,
        "gRPC",
        """smg_grpc_mode grpc_mode smg_http_sidecar_port grpc_port grpc_response_timeout_secs
        grpc_worker_threads sidecar sidecar_args""",
        why="not run with forks; the legacy server has no tokenizer manager for `meta_info`",
        remedy="use the HTTP server",
    ),
    # Watching.
    Arguments(
        WORKS,
        "logs, metrics, traces",
        """log_level log_level_http log_requests log_requests_level log_requests_format
        log_requests_target uvicorn_access_log_exclude_prefixes crash_dump_folder show_time_cost
        enable_metrics enable_mfu_metrics enable_metrics_for_all_schedulers
        load_snapshot_publish_interval tokenizer_metrics_custom_labels_header
        tokenizer_metrics_allowed_custom_labels extra_metric_labels bucket_time_to_first_token
        bucket_inter_token_latency bucket_e2e_request_latency prompt_tokens_buckets
        generation_tokens_buckets gc_warning_threshold_secs decode_log_interval
        enable_request_time_stats_logging kv_events_config load_publish_endpoint
        enable_forward_pass_metrics forward_pass_metrics_worker_id forward_pass_metrics_ipc_name
        enable_trace trace_modules otlp_traces_endpoint otlp_service_name export_metrics_to_file
        export_metrics_to_file_dir stat_loggers enable_layerwise_nvtx_marker""",
        why="they read; SGLang's own counts of running requests count rows. With "
        "--kv-events-config forked answers stay out of the prefix cache",
    ),
    Arguments(
        WORKS,
        "dumps and probes of the forward pass",
        """debug_tensor_dump_output_folder debug_tensor_dump_layers debug_tensor_dump_input_file
        forward_hooks msprobe_dump_config""",
        why="they read what a step computes",
    ),
)
