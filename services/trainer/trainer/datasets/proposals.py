"""Propose how the labels in a folder are read: the choices of a user, examples and counts."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agegender.errors import Problem
from agegender.labels import GENDER_NAMES, Gender
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trainer.datasets.catalog import MAX_IMAGES, Images
from trainer.datasets.formats import tables
from trainer.datasets.formats.embedded import UNPACKED
from trainer.datasets.formats.table_files import tables_in
from trainer.datasets.labels import (
    ADVICE,
    NO_FOLD,
    DatasetFormat,
    LabelledImage,
    LabelRow,
    Reason,
    Removals,
    Removed,
    age_text,
    checked_rows,
    gender_text,
)

_EXAMPLES, _VALUES = 5, 20
_MAX_CELL = 200
# Reasons that a cell is; a word for a gender is shown with its own advice.
_UNREAD = (Reason.NO_AGE, Reason.AGE_OUT_OF_RANGE, Reason.BAD_FOLD, Reason.BAD_ROW)

GenderName = Literal["female", "male"]
_FILE = "column with the image's name; default: guessed"
_AGE = "column with the age; empty: none; default: guessed"
_GENDER = "column with the gender; empty: none; default: guessed"
_SUBJECT = "column with the person, or another group that stays in one fold; empty: none; default: guessed"
_FOLD = "column with the fold; empty: none; default: guessed"
_TABLE = "table to read, relative to the folder; default: the first that has labels, and those like it"
_HUGGING_FACE = "read the folder as a data set of Hugging Face: metadata.*, Parquet shards or class folders"


class LabelChoice(BaseModel):
    """Corrections of a proposal: which column holds what, and what each gender word means."""

    model_config = ConfigDict(extra="forbid")

    file_column: str | None = Field(None, description=_FILE)
    age_column: str | None = Field(None, description=_AGE)
    gender_column: str | None = Field(None, description=_GENDER)
    subject_column: str | None = Field(None, description=_SUBJECT)
    fold_column: str | None = Field(None, description=_FOLD)
    table: str | None = Field(None, description=_TABLE)
    hugging_face: bool = Field(False, description=_HUGGING_FACE)
    map: dict[str, GenderName] = Field(
        default_factory=dict,
        description='meaning of gender words or numbers; over HTTP also as text, "0=female,1=male"',
        examples=[{"0": "female", "1": "male"}],
    )

    @field_validator("map", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        """Accept `0=female,1=male`; m, f, man and the like stand for their gender."""
        if isinstance(value, str):
            pairs = [pair.rpartition("=") for pair in value.split(",") if pair.strip()]
            value = {text.strip(): gender for text, _, gender in pairs}
        if not isinstance(value, Mapping):
            return value
        if "" in value:
            raise ValueError("a gender word is empty")
        return {str(text): _gender_name(gender) for text, gender in value.items()}

    @property
    def columns(self) -> dict[str, str | None]:
        """Return the selected columns by role; None for a label that is not to be read."""
        selected = {role: getattr(self, f"{role}_column") for role in tables.ROLES}
        return {role: name or None for role, name in selected.items() if name is not None}

    @property
    def genders(self) -> dict[str, Gender]:
        return {text: Gender[name.upper()] for text, name in self.map.items()}


_PAIR = r"[^=,\s]+=(female|male)"  # as documented; spaces, and other words for the genders, are accepted too


class LabelQuery(BaseModel):
    """A `LabelChoice` as query parameters."""

    model_config = ConfigDict(extra="forbid")

    file_column: str | None = Field(None, description=_FILE)
    age_column: str | None = Field(None, description=_AGE)
    gender_column: str | None = Field(None, description=_GENDER)
    subject_column: str | None = Field(None, description=_SUBJECT)
    fold_column: str | None = Field(None, description=_FOLD)
    table: str | None = Field(None, description=_TABLE)
    hugging_face: bool = Field(False, description=_HUGGING_FACE)
    map: str = Field(
        "",
        description="meaning of gender words or numbers",
        examples=["0=female,1=male"],
        json_schema_extra={"pattern": rf"^({_PAIR}(,{_PAIR})*)?$"},
    )

    @property
    def choice(self) -> LabelChoice:
        """Return the choice. Raises ``invalid-request`` 422 for a map of another form."""
        try:
            return LabelChoice.model_validate(self.model_dump())
        except ValidationError as error:
            detail = f"map: got {self.map[:_MAX_CELL]!r}; expected pairs such as 0=female,1=male."
            errors = [{"field": "map", "message": "expected pairs such as 0=female,1=male"}]
            raise Problem("invalid-request", 422, detail, errors=errors) from error


def _gender_name(text: object) -> object:
    word = tables.GENDERS.get(str(text).strip().lower())
    return text if word is None else GENDER_NAMES[word]


class Column(BaseModel):
    """A column of the table that was found."""

    name: str
    values: list[str] = Field(description="examples of its values")


class LabelExport(BaseModel):
    """A data set that was described as an image folder of Hugging Face."""

    dataset: str
    written: str = Field(description="the table, in the data set's folder")
    rows: int
    removed: dict[str, int] = Field(description="rows of the labels that cannot be used, by reason")
    summary: str


class ExampleRow(BaseModel):
    """A row, and what it is read as."""

    file: str
    cells: dict[str, str] = Field(description="the row as it is in the table")
    age: str = Field(description="years or a range of years; empty if unknown")
    gender: str = Field(description="female, male, or empty if unknown")
    subject: str = ""
    fold: int | None = None
    problem: str | None = Field(None, description="why the row cannot be used")


class LabelProposal(BaseModel):
    """A proposal of how to read a folder's labels, with counts."""

    dataset: str
    format: str = Field(description="label format, or `table`")
    source: list[str] = Field(description="files that the labels are in; empty if file or folder names are")
    columns: list[Column] = Field(description="of the table, if the labels are in one")
    file_column: str | None = None
    age_column: str | None = None
    gender_column: str | None = None
    subject_column: str | None = None
    fold_column: str | None = None
    map: dict[str, GenderName] = Field(description="the meaning of gender words that was given")
    genders: dict[str, str | None] = Field(
        description="the most frequent values of the gender column: female, male, unknown, or null if the "
        "meaning is not known"
    )
    examples: list[ExampleRow] = Field(description="the first rows and what they are read as")
    rows: int
    usable: int = Field(description="rows that can be extracted")
    with_age: int = Field(description="usable rows with an age")
    with_gender: int = Field(description="usable rows with a gender")
    removed: dict[str, int] = Field(description="rows that cannot be used, by reason")
    removed_examples: dict[str, str] = Field(
        description="the first file of each reason, with the cell that is the reason"
    )
    images_without_row: int = Field(0, description="images in the folder that no row names")
    summary: str = Field(description="the counts in one sentence")
    problems: list[str] = Field(description="what to check or to do, in sentences")
    ready: bool = Field(description="whether an extraction reads the folder in this way without labels.csv")
    written: str | None = Field(None, description="the file that was written")
    removed_file: str | None = Field(None, description="the file with the omitted rows")


@dataclass(frozen=True)
class Source:
    """The place of a folder's labels: in tables with known columns, or where a format finds them.

    Attributes
    ----------
    files : tables that are read together. found : columns to read of each.
    columns : all columns of the tables. unread : other tables of the folder, which are not read.
    """

    label_format: DatasetFormat
    image_set: str
    files: tuple[str, ...] = ()
    found: tuple[tables.Columns, ...] = ()
    columns: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def first(self) -> tables.Columns | None:
        """Columns of the first table; None if the labels are in no table."""
        return self.found[0] if self.found else None


class Inspection:
    """Read the labels of a source once, and count."""

    def __init__(
        self, folder: Path, source: Source, choice: LabelChoice, images: Images, *, is_unpacked: bool = False
    ) -> None:
        self._is_unpacked = is_unpacked
        self._folder, self._source, self._choice, self._images = folder, source, choice, images
        self._words = tables.gender_words(choice.genders, source.columns)
        self._counted = Counter[str]()
        self._removals = Removals()
        self._examples: list[ExampleRow] = []
        self._values: dict[str, list[str]] = {name: [] for name in source.columns if name}
        self._genders = Counter[str]()
        self._seen: set[str] = set()
        image_dir = source.label_format.image_dir(folder, source.image_set)
        self._prefix = "" if image_dir == folder else f"{image_dir.relative_to(folder).as_posix()}/"
        self._done = False

    def rows(self) -> Iterator[tuple[Mapping[str, str], LabelRow]]:
        """Yield each row of the labels: its cells and what it is read as."""
        for found, cells, row in self._checked():
            self._count(found, cells, row)
            yield cells, row
        self._done = True

    def _read(self) -> Iterator[tuple[tables.Columns | None, Mapping[str, str], LabelRow]]:
        """Yield each row as it is in the labels: the columns of its table, its cells, and its labels."""
        source, folder = self._source, self._folder
        if not source.found:
            label_format = source.label_format.with_gender_map(self._choice.map)
            for row in label_format.read(folder, source.image_set):
                yield None, {}, replace(row, file=f"{self._prefix}{row.file}") if row.file else row
        for table, found in zip(source.files, source.found, strict=True):
            for cells, row in tables.labelled_rows(folder, table, found, self._choice.genders):
                yield found, cells, row

    def _checked(self) -> Iterator[tuple[tables.Columns | None, Mapping[str, str], LabelRow]]:
        last: list[tuple[tables.Columns | None, Mapping[str, str]]] = []
        resolve = self._images.resolver(lambda: (row.file for _, _, row in self._read()))

        def resolved() -> Iterator[LabelRow]:
            for found, cells, row in self._read():
                last[:] = [(found, cells)]
                row = replace(row, file=resolve(row.file)) if row.file else row
                yield row if found is None else tables.held(self._source.files[0], row)

        for row in checked_rows(resolved(), self._folder):
            is_missing = isinstance(row, LabelledImage) and not self._is_there(row.file)
            yield *last[0], Removed(row.file, Reason.IMAGE_MISSING, row.fold) if is_missing else row

    def _is_there(self, file: str) -> bool:
        """Return whether an image exists, or will when the labels are unpacked."""
        will_be = not self._is_unpacked and UNPACKED in file.split("/") and bool(self._source.found)
        return will_be or file in self._images.paths or (self._folder / file).is_file()

    def _count(self, found: tables.Columns | None, cells: Mapping[str, str], row: LabelRow) -> None:
        self._counted["rows"] += 1
        if isinstance(row, Removed):
            self._removals.add(row.reason.value, row.file, row.cell)
        else:
            self._seen.add(row.file)
            self._counted["age"] += not math.isnan(row.age_low)
            self._counted["gender"] += row.gender != Gender.UNKNOWN
        if len(self._examples) < _EXAMPLES:
            self._examples.append(_example(cells, row))
        for name, values in self._values.items():
            value = cells.get(name, "")[:_MAX_CELL]
            if len(values) < _EXAMPLES and value not in values:
                values.append(value)
        if found is not None and found.gender:
            value = tables.plain(cells.get(found.gender, ""))[:_MAX_CELL]
            if value in self._genders or len(self._genders) < _MAX_CELL:
                self._genders[value] += 1

    def proposal(self) -> LabelProposal:
        """Return the proposal; reads the labels unless `rows` has done so."""
        if not self._done:
            for _ in self.rows():
                pass
        source, found = self._source, self._source.first
        usable = self._counted["rows"] - self._removals.counts.total()
        outcome = self._removals.outcome(usable, noun="rows")
        is_ready = found is None or (list(source.files) == tables_in(self._folder) and self._reads_alike())
        return LabelProposal(
            dataset=self._folder.name,
            format=source.label_format.name,
            source=list(source.files),
            columns=[Column(name=name, values=values) for name, values in self._values.items()],
            **{f"{role}_column": found and getattr(found, role) for role in tables.ROLES},
            map=self._choice.map,
            genders={text: self._meaning(text) for text, _ in self._genders.most_common(_VALUES)},
            examples=self._examples,
            rows=self._counted["rows"],
            usable=usable,
            with_age=self._counted["age"],
            with_gender=self._counted["gender"],
            removed=outcome.removed,
            removed_examples=outcome.removed_examples,
            images_without_row=len(self._images.paths - self._seen) if found else 0,
            summary=outcome.summary,
            problems=list(self._problems(usable)),
            ready=is_ready and usable > 0,
        )

    def _reads_alike(self) -> bool:
        """Return whether an extraction without labels.csv would read the same columns."""
        if self._choice.map:
            return False
        try:
            return all(
                tables.columns_of(self._folder / table) == found
                for table, found in zip(self._source.files, self._source.found, strict=True)
            )
        except Problem:
            return False

    def _meaning(self, text: str) -> str | None:
        if (gender := self._words.get(text)) is not None:
            return GENDER_NAMES[gender]
        return "unknown" if text in tables.UNKNOWN else None

    def _problems(self, usable: int) -> Iterator[str]:
        found = self._source.first
        counted = self._counted
        if not counted["rows"]:
            yield "There are no rows; write one per image."
        unread = [text for text in self._genders if self._meaning(text) is None][:_EXAMPLES]
        if unread:
            values = ", ".join(repr(text) for text in unread)
            pairs = ",".join(
                f"{text}=female" if not index else f"{text}=male" for index, text in enumerate(unread[:2])
            )
            yield (
                f"The column {found and found.gender!r} has {values}, whose meaning is not known or differs "
                f"between data sets. State it, as in --map {pairs}."
            )
        if found is not None:
            for role in ("age", "gender"):
                if getattr(found, role) is None:
                    names = ", ".join(repr(name) for name in self._source.columns if name)
                    yield f"No column is read as the {role}. Name it: --{role}-column, one of {names}."
        removed, examples = self._removals.counts, self._removals.examples
        for reason in _UNREAD:
            if removed[reason]:
                yield f"{removed[reason]:,} rows are {reason}, such as {examples[reason]}. {ADVICE[reason]}"
        if found is not None and found.subject is None and (others := self._others(found)):
            yield (
                f"No column is read as the person. If {others} names the person in the image, select it "
                "(--subject-column), so that nobody is in two folds."
            )
        if self._source.unread:
            yield f"Not read: {', '.join(self._source.unread)}. --table NAME reads another table."
        if len(self._source.files) > 1:
            yield f"{len(self._source.files)} tables are read together: {', '.join(self._source.files)}."
        if missing := removed[Reason.IMAGE_MISSING]:
            yield f"{missing:,} rows name files that are not in the folder. {ADVICE[Reason.IMAGE_MISSING]}"
        if removed[Reason.IMAGE_NOT_HELD]:
            first = examples[Reason.IMAGE_NOT_HELD]
            files = ", ".join(self._source.files[:_EXAMPLES])
            yield f"{files}: the first image is named {first!r}. {ADVICE[Reason.IMAGE_NOT_HELD]}"
        if found is not None and (extra := len(self._images.paths - self._seen)):
            yield f"{extra:,} images have no usable row, and are not extracted."
        if not self._images.complete:
            yield f"The folder has more than {MAX_IMAGES:,} images; names without their folder may be missed."
        for name, what in (("age", "an age"), ("gender", "a gender")):
            if usable and not counted[name] and (found is None or getattr(found, name)):
                yield f"No usable row has {what}."

    def _others(self, found: tables.Columns) -> str:
        """Return the columns that are not read, some of them by name."""
        read = {getattr(found, role) for role in tables.ROLES}
        others = [name for name in self._source.columns if name and name not in read]
        return " or ".join(repr(name) for name in others[:_EXAMPLES])


def _example(cells: Mapping[str, str], row: LabelRow) -> ExampleRow:
    shown = {name: value[:_MAX_CELL] for name, value in cells.items() if name}
    file = row.file[:_MAX_CELL]
    if isinstance(row, Removed):
        return ExampleRow(file=file, cells=shown, age="", gender="", problem=row.reason.value)
    fold = None if row.fold == NO_FOLD else row.fold
    return ExampleRow(
        file=file, cells=shown, age=age_text(row), gender=gender_text(row), subject=row.subject, fold=fold
    )
