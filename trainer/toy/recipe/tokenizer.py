"""The toy model's tokenizer: byte-level BPE learned from the shapes world's own language.

Any text encodes, because every byte is a token. Words are split off together with the space before
them, so text that is appended at the end of a word, before the space, leaves all earlier tokens as
they are: a cut of a reference at a word end is a cut of its tokens.
"""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trainer.toy.dataset import draw_scene, stream
from trainer.toy.language import QUESTIONS
from trainer.toy.recipe.lessons import EASY_QUESTIONS

BOS, EOS, PAD, IMAGE = SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<image>")
BOS_ID, EOS_ID, PAD_ID, IMAGE_ID = range(len(SPECIAL_TOKENS))
"""Special tokens come first in the vocabulary."""

VOCABULARY_LIMIT = 512
"""Bound on the tokens. Merging ends before it, when every word of the language is one token: 4
special tokens, 256 bytes and 141 merges."""
CORPUS_SCENES = 400
"""Scenes whose questions and answers the merges are learned from."""

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {{- message.role | upper }}:
    {%- if message.content is string %}
        {{- '<image>' * message.content.count('<image>') }}
        {{- '\\n' + message.content.replace('<image>\\n', '').replace('<image>', '') }}
    {%- else %}
        {%- for part in message.content if part.type == 'image' %}
            {{- '<image>' }}
        {%- endfor %}
        {{- '\\n' }}
        {%- for part in message.content if part.type == 'text' %}
            {{- part.text }}
        {%- endfor %}
    {%- endif %}
    {{- eos_token if message.role == 'assistant' else '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'ASSISTANT:\\n' }}
{%- endif %}
"""
"""Renders `<s>USER:<image>`, the question, `ASSISTANT:` and the answer on lines of their own.

Images come first in their turn, and the line break after them stays when there are none: a prompt
whose image tokens are left out is the same tokens as a prompt that never had an image.
"""


def build_tokenizer(**more_special_tokens: str) -> PreTrainedTokenizerFast:
    """Learns the merges and sets special tokens and chat template; the same on every machine.

    No bos token is added on encoding: the chat template writes it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_LIMIT,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE, **more_special_tokens},
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def _corpus() -> list[str]:
    """Conversations about training scenes, in the form that the chat template gives them."""
    rng = stream("training", 0)
    texts: list[str] = []
    for _ in range(CORPUS_SCENES):
        scene = draw_scene(rng, held_out=False)
        for ask in (*QUESTIONS.values(), *EASY_QUESTIONS):
            question = ask(scene, rng)
            texts.append(f"USER:\n{question.prompt}\nASSISTANT:\n{question.answer}")
    return texts
