"""Ask through OpenAI's client: text, usage, and how parallel the answer was.

multiverse serve --port 30000 --max-total-tokens 6000     # in another terminal
python examples/openai_client.py --url http://127.0.0.1:30000
"""

import argparse
import sys

from openai import APIError, OpenAI

QUESTION = "Let A = 482+395, B = 913-278, C = 267*4. Which is largest, A, B or C?"
#: The sentence that asks a Multiverse model for parallel steps.
PARALLEL = "Think step by step and in parallel before answering."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:30000", help="of a running server")
    parser.add_argument("--question", default=QUESTION)
    options = parser.parse_args()

    client = OpenAI(base_url=f"{options.url}/v1", api_key="none")
    answer = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": f"{options.question} {PARALLEL}"}],
        temperature=0,
        max_tokens=1000,
        extra_body={
            "return_meta_info": True,  # SGLang's: the figures of this answer
            "custom_params": {"multiverse": {"max_branches": 8}},  # the plugin's: bounds
        },
    )
    choice = answer.choices[0]
    print(choice.message.content)
    figures = choice.meta_info  # an extra field, so the client keeps it as it came
    print(f"\nfinish reason: {choice.finish_reason}")
    print(f"tokens, all paths together: {answer.usage.completion_tokens}")
    if "multiverse_parallelism" not in figures:
        sys.exit("no figures of the plugin: is the server started with --plugin multiverse?")
    print(f"critical path: {figures['multiverse_critical_path_tokens']} tokens")
    print(f"degree of parallelism: {figures['multiverse_parallelism']:.2f}")
    print(f"forks: {figures['multiverse_forks']}, paths: {figures['multiverse_paths']}")


if __name__ == "__main__":
    try:
        main()
    except APIError as error:  # no server, or one that refuses
        sys.exit(f"error: {error}\n  --url names the server; multiverse serve starts one")
