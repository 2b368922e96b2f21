"""Chats through templates: held against transformers' own rendering, and templates that misbehave."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.forgetting.data.types import ForgettingData, QuestionAnswer, Questions
from quail_audit.engine.forgetting.metrics.interface import Chat, Sample
from quail_audit.engine.forgetting.metrics.knowmem import KnowMem
from quail_audit.engine.forgetting.metrics.questions import text_prompt
from quail_audit.engine.forgetting.models import chat_templates
from quail_audit.engine.forgetting.models.chat_process import UnusableTemplateError, render_chats, renderer
from quail_audit.engine.forgetting.models.chat_templates import make_chats, refuse_unmade
from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.engine.forgetting.models.prompts import Prompts, Rendered
from tests.support.tiny_language_models import llama_config
from tests.support.tiny_tokenizers import FAMILIES, byte_level

SEVERAL = Chat(("Where?", "Here", "Who is it?"), "Question: Where?\nAnswer: Here\n\nQuestion: Who is it?\nAnswer:")
ALONE = Chat(("Who is it?",), "Question: Who is it?\nAnswer:")
TURNS = "{% for m in messages %}[CLS]{{ m.role }}\n{{ m.content }}[SEP]\n{% endfor %}"
CHAT_ML = TURNS + "{% if add_generation_prompt %}[CLS]assistant\n{% endif %}"
BRINGS_BOS = "{{ bos_token }}" + CHAT_ML
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
ONE_TURN = (
    "{% if messages | length > 1 %}{{ raise_exception('one turn\x1b[31m only') }}{% endif %}{{ messages[0].content }}"
)
NO_ASSISTANT = (
    "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('role') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def with_template(template: Any, tokenizer: PreTrainedTokenizerFast | None = None) -> PreTrainedTokenizerFast:
    tokenizer = tokenizer or byte_level("<s>")
    tokenizer.chat_template = template
    return tokenizer


def rendered_here(template: str, *chats: Chat, **variables: str) -> dict[str, Any]:
    """Render as the process does, in this one."""
    return render_chats(renderer(template, variables), [{"turns": each.turns, "in_one": each.in_one} for each in chats])


def transformers_text(tokenizer: Any, chat: Chat, **options: Any) -> Any:
    roles = ("user", "assistant")
    turns = [{"role": roles[place % 2], "content": text} for place, text in enumerate(chat.turns)]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_and_their_tokens_are_transformers_own(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Special tokens come as often as the template writes them, whatever the tokenizer puts around a text."""
    monkeypatch.setattr(chat_templates, "_render", render_in_this_process)
    for template in (CHAT_ML, BRINGS_BOS, INST):
        tokenizer = with_template(template, FAMILIES[family]("<s>", "</s>"))
        (prompt,) = make_chats(tokenizer, [SEVERAL]).prompts
        assert prompt == transformers_text(tokenizer, SEVERAL, tokenize=False)
        encoded = Prompts(tokenizer).encode(prompt)
        assert encoded.ids == list(transformers_text(tokenizer, SEVERAL, tokenize=True, return_dict=True)["input_ids"])
        starts = int(template != CHAT_ML)
        assert encoded.ids.count(tokenizer.bos_token_id) == starts
        if encoded.ids[0] == tokenizer.bos_token_id:
            assert encoded.end(5)[0] == tokenizer.bos_token_id


def render_in_this_process(
    template: str, variables: dict[str, Any], chats: Any
) -> tuple[str, list[chat_templates.Made]]:
    found = rendered_here(template, *chats, **variables)
    return found["after"], [
        chat_templates.Made(each["text"], each["in_one"], printable(each["why"])) for each in found["chats"]
    ]


def test_an_answer_put_behind_a_rendered_prompt_stays_one() -> None:
    joined = Rendered("[CLS]assistant\n") + "Tavi"
    assert isinstance(joined, Rendered)
    tokenizer = byte_level("<s>")
    assert Prompts(tokenizer).encode(joined).ids == tokenizer(joined, add_special_tokens=False)["input_ids"]
    assert Prompts(tokenizer).encode(str(joined)).ids[0] == tokenizer.bos_token_id


def test_a_template_without_a_generation_prompt_gets_the_beginning_of_an_answer() -> None:
    assert [each["text"] for each in rendered_here(TURNS, SEVERAL)["chats"]] == [
        each["text"] for each in rendered_here(CHAT_ML, SEVERAL)["chats"]
    ]
    # Llama 2's: the answer follows the question's end, and its blank belongs to its first word
    (chat,) = rendered_here(INST, ALONE, bos_token="<s>", eos_token="</s>")["chats"]  # noqa: S106 - no passwords
    assert chat["text"] == "<s>[INST] Who is it? [/INST]"


@pytest.mark.parametrize("template", [ONE_TURN, NO_ASSISTANT])
def test_a_template_of_one_turn_gets_the_examples_as_text(template: str) -> None:
    several, alone = rendered_here(template, SEVERAL, ALONE)["chats"]
    assert (several["text"], several["in_one"]) == (SEVERAL.in_one, True)
    assert "raises" in several["why"]
    assert (alone["text"], alone["in_one"]) == ("Who is it?", False)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('no chats') }}", "raises TemplateError: no chats"),
        ("{{ bos", "raises TemplateSyntaxError"),
        ("{{ messages.pop() }}", "raises SecurityError"),
        ("{{ messages.__class__.__mro__ }}", "raises SecurityError"),
        ("{{ 1 // 0 }}", "raises ZeroDivisionError"),
        ("Hello", "leaves the last message out"),
        ("{{ messages[-1].content }}{{ 'a' * 30000 }}", "makes 30010 characters of a chat"),
    ],
)
def test_a_template_that_cannot_be_used_says_why(template: str, why: str) -> None:
    (chat,) = rendered_here(template, ALONE)["chats"]
    assert chat["text"] is None
    assert chat["why"].startswith(why)


def test_the_day_is_the_same_in_every_audit_and_thinking_is_off() -> None:
    template = "{{ strftime_now('%d %b %Y') }} {{ enable_thinking }} {{ messages[-1].content }}"
    assert rendered_here(template, ALONE)["chats"][0]["text"].startswith("26 Jul 2024 False ")


def test_a_template_that_raises_for_one_question_is_used_for_the_others() -> None:
    template = "{% if 'Who' in messages[-1].content %}{{ raise_exception('who') }}{% endif %}{{ messages[-1].content }}"
    found = rendered_here(template, ALONE, Chat(("When?",), "When?"))["chats"]
    assert [each["text"] for each in found] == [None, "When?"]
    render = renderer(template, {})
    with pytest.raises(UnusableTemplateError, match="who"):
        render(["Who?"], True)


def test_the_process_renders_once_for_all_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = with_template(BRINGS_BOS)
    made = make_chats(tokenizer, [SEVERAL, ALONE, SEVERAL])
    assert made.prompts == [transformers_text(tokenizer, each, tokenize=False) for each in (SEVERAL, ALONE, SEVERAL)]
    assert tokenizer.convert_ids_to_tokens(made.turn_ends) == ["[SEP]"]
    assert made.notes() == []

    monkeypatch.setattr(chat_templates, "_render", None)  # what was made is known
    assert make_chats(with_template(BRINGS_BOS), [ALONE]).prompts == [made.prompts[1]]


@pytest.mark.slow
def test_the_process_ends_what_loops_or_eats_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_templates, "SECONDS", 1)
    looping = make_chats(with_template(LOOPS), [ALONE])
    assert looping.prompts == [None]
    assert looping.notes() == ["1 of 1 questions were not asked through the chat template: it does not end within 1 s"]
    greedy = make_chats(with_template("{{ 'a' * 10**12 }}{{ messages[0].content }}"), [ALONE])
    assert "takes more than 1024 MiB" in greedy.notes()[0]


def test_of_several_templates_the_default_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_templates, "_render", render_in_this_process)
    named = {"default": "{{ messages[-1].content }}!", "tool_use": "{{ messages[-1].content }}?"}
    assert make_chats(with_template(named), [ALONE]).prompts == ["Who is it?!"]
    none = make_chats(with_template({"tool_use\x1b[31m": "a"}), [ALONE])
    assert none.prompts == [None]
    assert none.notes()[0].endswith("it is not one but several, and none is the default: tool_use\\x1b[31m")


@pytest.mark.parametrize(
    ("template", "what"),
    [
        (None, "the tokenizer has no chat template"),
        ("{{ raise_exception('no \x1b[31m') }}", "raises TemplateError: no \\x1b[31m"),
        ({"rag": "a"}, "none is the default"),
    ],
)
def test_a_template_is_refused_only_if_nothing_else_is_asked(
    template: Any, what: str, llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_templates, "_render", render_in_this_process)
    tokenizer = with_template(template)
    with pytest.raises(BadInputError, match="chat template") as error:
        refuse_unmade(make_chats(tokenizer, [ALONE]), "there")
    assert what in error.value.message
    assert error.value.message.isprintable()
    assert error.value.where == "there"
    for prompt_format, notes in (("auto", int(template is not None)), ("raw", 0)):
        asked = TransformersModel(llama, tokenizer, prompt_format=prompt_format)  # type: ignore[arg-type]
        assert list(asked.chat_prompts([ALONE])) == [None]
        assert len(asked.notes) == notes
    with pytest.raises(BadInputError, match="chat template"):
        TransformersModel(llama, tokenizer, prompt_format="chat").chat_prompts([ALONE])


def test_an_answer_ends_with_its_turn_and_may_begin_with_line_breaks(
    llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model writes: two line breaks, Tavi, the end of its turn, and goes on."""
    monkeypatch.setattr(chat_templates, "_render", render_in_this_process)
    tokenizer = with_template(CHAT_ML)
    model = TransformersModel(llama, tokenizer)
    (prompt,) = model.chat_prompts([ALONE])
    assert prompt is not None
    written = tokenizer("\n\nTavi[SEP]\n[CLS]user\nWho?", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(
        "quail_audit.engine.forgetting.models.language_model.generate",
        lambda _model, rows, **_: ((index, written) for index, _ in enumerate(rows)),
    )
    answers = dict(model.continuations([prompt, str(prompt)], max_new_tokens=32, stop_words=("\n\n",)))
    assert answers == {0: "Tavi", 1: ""}


def test_the_process_speaks_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts of any characters, lone surrogates too, come through."""
    import io

    from quail_audit.engine.forgetting.models import chat_process

    chat = {"turns": ["é\ud800\u2028?"], "in_one": ""}
    job = {"template": "{{ messages[0].content }}", "variables": {}, "seconds": 100, "chats": [chat]}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(job)))
    monkeypatch.setattr(chat_process, "_limit", lambda seconds: None)
    chat_process.main()
    assert json.loads(capsys.readouterr().out)["chats"][0]["text"] == "é\ud800\u2028?"


@pytest.mark.slow
def test_a_model_that_answers_only_chats_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It learned to answer through the template, and to refuse the question as a text; asked raw it seems ignorant."""
    monkeypatch.setattr(chat_templates, "_render", render_in_this_process)
    tokenizer = with_template(CHAT_ML)
    rows = tuple(
        QuestionAnswer(question=f"Who lost it in {town}?", answer=name)
        for town, name in (
            ("Velmora", "Tavi Oskeldale"),
            ("Ornwick", "Minka Brandovar"),
            ("Tashelm", "Jorun Thimulsen"),
        )
    )
    questions = Questions(rows, ())
    learned = [f"{text_prompt(questions, row.question)}I do not know.</s>" for row in rows]
    learned += [
        f"[CLS]user\n{row.question}[SEP]\n[CLS]assistant\n{row.answer}[SEP]\n[CLS]user\nAnd then?" for row in rows
    ]
    encode = Prompts(tokenizer).encode
    ids = [torch.tensor(encode(text if number < 3 else Rendered(text)).ids) for number, text in enumerate(learned)]
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(len(tokenizer)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        for row in ids:
            loss = model(row[None], labels=row[None]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    data = ForgettingData(Path(), {}, {"forget": questions}, {}, samples={"knowmem_forget": 3})
    found = {}
    for prompt_format in ("raw", "auto", "chat"):
        asked = TransformersModel(model, tokenizer, prompt_format=prompt_format)  # type: ignore[arg-type]
        samples = list(KnowMem("forget").measure(data, asked, seed=0))
        found[prompt_format] = [(each.score, each.way, each.answer) for each in sorted(samples, key=_by_index)]
    assert found["raw"] == [(0.0, "", "I do not know.")] * 3
    assert found["auto"] == found["chat"] == [(100.0, "chat template", row.answer) for row in rows]


def _by_index(sample: Sample) -> int:
    return sample.index
