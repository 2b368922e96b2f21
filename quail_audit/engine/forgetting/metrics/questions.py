"""Make the prompts of questions, one for each way in which a question is asked.

As a text, which is MUSE's form; by each of its paraphrases in that form; and through the tokenizer's chat template. A
paraphrase is put through the template only if texts are not asked at all, to keep the number of answers small.
"""

from __future__ import annotations

from dataclasses import dataclass

from quail_audit.engine.forgetting.data.types import Questions
from quail_audit.engine.forgetting.metrics.interface import Chat, LanguageModel

AS_IT_IS = ""
PARAPHRASE = "paraphrase"
CHAT_TEMPLATE = "chat template"


@dataclass(frozen=True)
class Asked:
    """A question asked in one way.

    Attributes:
        index: its place in Questions.asked.
        way: "", "paraphrase" or "chat template", as Sample.way.
        question: the question, in these words.
        prompt: the whole prompt, which the answer is to follow.
        is_chat: whether the chat template made it.
    """

    index: int
    way: str
    question: str
    prompt: str
    is_chat: bool = False


def ways_to_ask(questions: Questions, model: LanguageModel) -> list[Asked]:
    """Return every prompt of every question, in the order of the questions, at least one of each.

    Raises:
        BadInputError: only chats are to be asked, and there is no chat template, or it fails.
    """
    raw, chat = model.prompt_format != "chat", model.prompt_format != "raw"
    worded = [
        (index, way, text)
        for index, row in enumerate(questions.asked)
        for way, text in [(AS_IT_IS, row.question), *((PARAPHRASE, text) for text in row.paraphrases)]
    ]
    found = [Asked(*each, text_prompt(questions, each[2])) for each in worded] if raw else []
    if chat:
        through = [each for each in worded if not raw or each[1] == AS_IT_IS]
        prompts = model.chat_prompts([chat_of(questions, text) for _, _, text in through])
        found += [
            Asked(index, way or CHAT_TEMPLATE, text, prompt, is_chat=True)
            for (index, way, text), prompt in zip(through, prompts, strict=True)
            if prompt is not None
        ]
    return sorted(found, key=lambda each: each.index)


def text_prompts(questions: Questions) -> list[str]:
    """Return the prompts of questions as texts, paraphrases included."""
    return [text_prompt(questions, text) for row in questions.asked for text in (row.question, *row.paraphrases)]


def text_prompt(questions: Questions, question: str) -> str:
    """Return MUSE's prompt: the examples with their answers, then the question."""
    shown = "".join(f"Question: {row.question}\nAnswer: {row.answer}\n\n" for row in questions.examples)
    return f"{shown}Question: {question}\nAnswer: "


def chat_of(questions: Questions, question: str) -> Chat:
    """Return a question as a chat: the examples are earlier turns."""
    shown = [text for row in questions.examples for text in (row.question, row.answer)]
    return Chat((*shown, question), text_prompt(questions, question).rstrip())
