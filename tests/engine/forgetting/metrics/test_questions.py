"""Every way in which a question is asked: its prompts by hand, and the score of the best answer."""

import pytest

from quail_audit.engine.forgetting.data.types import QuestionAnswer, Questions
from quail_audit.engine.forgetting.metrics.knowmem import KnowMem
from quail_audit.engine.forgetting.metrics.questions import text_prompts, ways_to_ask
from tests.engine.forgetting.metrics.test_language_model_metrics import ScriptedModel, data, run

WHERE = QuestionAnswer(question="Where?", answer="Here")
WHO = QuestionAnswer(question="Who?", answer="Tavi", paraphrases=("By whom?", "Name them."))
WHEN = QuestionAnswer(question="When?", answer="Now or then")
QUESTIONS = Questions((WHO, WHEN), (WHERE,))
SHOWN = "Question: Where?\nAnswer: Here\n\n"
TEXTS = [f"{SHOWN}Question: {text}\nAnswer: " for text in ("Who?", "By whom?", "Name them.", "When?")]


def scripted(prompt_format: str = "auto", answers: dict[str, str] | None = None, *, template: bool) -> ScriptedModel:
    model = ScriptedModel(answers)
    model.prompt_format = prompt_format  # type: ignore[assignment]
    model.has_template = template
    return model


@pytest.mark.parametrize(
    ("prompt_format", "template", "expected"),
    [
        (
            "auto",
            False,
            [(0, "", TEXTS[0]), (0, "paraphrase", TEXTS[1]), (0, "paraphrase", TEXTS[2]), (1, "", TEXTS[3])],
        ),
        ("raw", True, [(0, "", TEXTS[0]), (0, "paraphrase", TEXTS[1]), (0, "paraphrase", TEXTS[2]), (1, "", TEXTS[3])]),
        (
            "auto",
            True,
            [
                *((0, way, text) for way, text in zip(("", "paraphrase", "paraphrase"), TEXTS[:3], strict=True)),
                (0, "chat template", "Where? | Here | Who?"),
                (1, "", TEXTS[3]),
                (1, "chat template", "Where? | Here | When?"),
            ],
        ),
        (
            "chat",
            True,
            [
                (0, "chat template", "Where? | Here | Who?"),
                (0, "paraphrase", "Where? | Here | By whom?"),
                (0, "paraphrase", "Where? | Here | Name them."),
                (1, "chat template", "Where? | Here | When?"),
            ],
        ),
    ],
)
def test_the_prompts_of_every_way(prompt_format: str, template: bool, expected: list[tuple[int, str, str]]) -> None:
    asked = ways_to_ask(QUESTIONS, scripted(prompt_format, template=template))
    assert [(each.index, each.way, each.prompt) for each in asked] == expected
    assert text_prompts(QUESTIONS) == TEXTS


def test_a_question_scores_as_its_best_answer_and_says_how_it_was_asked() -> None:
    answers = {
        TEXTS[0]: "nobody",
        TEXTS[1]: "Tavi Oskeldale",  # 1 of 2 words said, 1 of 1 true: F1 = 2/3
        TEXTS[2]: "it was Tavi",  # 1 of 3: F1 = 1/2
        TEXTS[3]: "Now or never",  # 2 of 3: F1 = 2/3, as much as through the template, which comes later
        "Where? | Here | Who?": "Tavi",
        "Where? | Here | When?": "then or now or then",  # "or then": 2 of 5 said, 2 of 3 true, or "now or then": 3
    }
    model = scripted(answers=answers, template=True)
    found, measured = run(KnowMem("forget").measure(data(questions={"forget": QUESTIONS}), model, seed=0))
    by_index = {sample.index: sample for sample in found}
    assert len(found) == 2
    assert (by_index[0].way, by_index[0].answer, by_index[0].score) == ("chat template", "Tavi", 100.0)
    assert (by_index[1].way, by_index[1].answer) == ("chat template", "then or now or then")
    assert by_index[1].score == pytest.approx(75.0)  # 3 of 5 and 3 of 3
    assert measured.values == pytest.approx([100.0, 75.0])
    assert len(model.asked) == 2  # texts, then chats

    model = scripted("raw", answers, template=True)
    found, measured = run(KnowMem("forget").measure(data(questions={"forget": QUESTIONS}), model, seed=0))
    by_index = {sample.index: sample for sample in found}
    assert (by_index[0].way, by_index[0].prompt, by_index[0].answer) == ("paraphrase", "By whom?", "Tavi Oskeldale")
    assert (by_index[1].way, by_index[1].prompt) == ("", "When?")
    assert measured.values == pytest.approx([200 / 3, 200 / 3])


def test_of_equal_answers_the_first_way_is_named() -> None:
    answers = dict.fromkeys([*TEXTS, "Where? | Here | Who?", "Where? | Here | When?"], "Tavi then")
    found, _ = run(
        KnowMem("forget").measure(
            data(questions={"forget": QUESTIONS}), scripted(answers=answers, template=True), seed=0
        )
    )
    assert [(sample.way, sample.prompt) for sample in sorted(found, key=lambda one: one.index)] == [
        ("", "Who?"),
        ("", "When?"),
    ]
