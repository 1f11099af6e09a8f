"""The options of teachers: which models they are, and the prompts that they read. No torch here."""

from __future__ import annotations

from pydantic import model_validator

from obverse.config.fields import TEACHER_TEMPLATE_TEXT, Options, Places, Positive, Template, Text, option


class TeacherOptions(Options):
    """The teacher of methods that have one, and the prompts that it reads."""

    teacher_model: Places | None = option(
        "model",
        "teacher of methods that read another model: a folder or hub name, with the policy's tokenizer, or several as "
        "VALUE=MODEL, separated by commas, one of which teacher_field chooses for each row",
        None,
    )
    teacher_url: Text | None = option(
        "model",
        "address of a server that has the teacher, in place of teacher_model: vLLM, or an OpenAI-compatible one that "
        "returns log-probs of a prompt",
        None,
        resume="free",
    )
    teacher_name: Text | None = option(
        "model", "name of the teacher among the models of teacher_url; none: the only one that it serves", None
    )
    teacher_field: Text | None = option(
        "model", "field of the rows that names the row's teacher among those of teacher_model", None
    )
    teacher_template: Template | None = option(
        "model",
        TEACHER_TEMPLATE_TEXT,
        None,
    )
    max_teacher_prompt_length: Positive | None = option(
        "model",
        "longest prompt of a teacher, in tokens: answers of siblings and feedback are cut at their end, problems with "
        "longer demonstrations are left out; none: as the teacher's positions allow",
        None,
    )

    @property
    def teacher_models(self) -> dict[str, str]:
        """The teachers that are other models by the value of `teacher_field`; by "" without it."""
        if self.teacher_model is None:
            return {}
        if self.teacher_field is None:
            return {"": self.teacher_model}
        parts = [part.partition("=") for part in self.teacher_model.split(",")]
        return {value.strip(): model.strip() for value, _, model in parts}

    @model_validator(mode="after")
    def _names_of_teachers(self) -> TeacherOptions:
        parts = [part.partition("=") for part in (self.teacher_model or "").split(",")]
        names = [value.strip() for value, _, _ in parts]
        if self.teacher_url is not None and self.teacher_model is not None:
            raise ValueError("teacher_url and teacher_model are two places of one teacher: give one of them")
        if self.teacher_name is not None and self.teacher_url is None:
            raise ValueError("teacher_name is the name of a served model: add teacher_url")
        if self.teacher_field is None and len(parts) > 1:
            raise ValueError("teacher_model names several teachers: add teacher_field, which chooses one for each row")
        if self.teacher_field is not None and self.teacher_model is None:
            raise ValueError("teacher_field chooses among several teachers: add teacher_model")
        if self.teacher_field is not None and not all(value and model for value, _, model in parts):
            raise ValueError("teacher_model expects VALUE=MODEL, separated by commas, with teacher_field")
        if len(set(names)) < len(names):
            raise ValueError("teacher_model names a value of teacher_field twice")
        return self
