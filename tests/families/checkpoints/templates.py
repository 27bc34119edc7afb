"""Chat templates of the families: published ones as trl has them, others in our own words."""

from pathlib import Path

import trl

PUBLISHED = Path(trl.__file__).parent / "chat_templates"


def published(name: str) -> str:
    """A template as its checkpoint was published with it."""
    return (PUBLISHED / f"{name}.jinja").read_text(encoding="utf-8")


QWEN2_VL = published("qwen2_5_vl")
"""Qwen2.5-VL has kept it."""

QWEN2_5_VL = published("qwen2_5_vl")

QWEN3_VL = published("qwen3_vl")

QWEN3_5 = published("qwen3_5_nothink")
"""It opens a turn behind an empty train of thought."""

GEMMA3 = published("gemma3")

GEMMA4 = published("gemma4_v5")

IDEFICS3 = published("idefics3")

SMOLVLM = published("smolvlm")

INTERNVL = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{{ '<IMG_CONTEXT>\n' if part.type == 'image' else part.text }}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Of the folders for transformers. In words of our own."""

INTERNVL_CHAT = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Of the folders with code of their own. It is the language model's: contents are texts. In words
of our own."""

LLAVA_ONEVISION = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + ' ' }}"
    "{% for part in message.content if part.type == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ '\n' + part.text }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""In words of our own: images first, a line feed before each text, none between turns."""

MISTRAL3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}[INST]{% for part in message.content %}"
    "{{ '[IMG]' if part.type == 'image' else part.text }}{% endfor %}[/INST]"
    "{% elif message.role == 'system' %}"
    "[SYSTEM_PROMPT]{{ message.content[0].text }}[/SYSTEM_PROMPT]"
    "{% else %}{{ message.content[0].text }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""In words of our own, without the long system prompt of the published one."""
