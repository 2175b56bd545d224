"""Measures of how readable a package is: names, folded statements, layout and prose."""

import ast
import io
import re
import tokenize
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ADVERBS = (
    "of at how what which where there here both each among below above away towards after before "
    "again now then else via within"
)
PARTICIPLES = (
    "found given told noted held kept known asked wanted needed shown made drawn moved carried "
    "named stored seen begun ended lost chosen picked written said tried tells tell knows lacks "
    "listed counted painted taken joined pulled pushed turned summed solved scaled centred closest "
    "copied recalled covered"
)
PRONOUNS = (
    "one some own ours theirs other others few more many whole rest most it them usual alone twice "
    "same"
)
BARE_WORDS = {word for words in (ADVERBS, PARTICIPLES, PRONOUNS) for word in words.split()}
"""Names that do not say what a thing is."""

MARKERS = [
    r"\balone\b", r"\b(told|tells?|telling)\b", r"\bstands?\b", r"\bwhose\b", r"\b[Ee]lse\b",
    r"\b(of|by|in|from|to|with|for|at|on) which\b", r"\bperhaps\b", r"\bwhatever\b",
    r"\b(is|are|be|was|were) (no|none)\b", r"\bbeside\b", r"\bbehind\b", r"\bwants?\b",
    r"\bof (its|their|one's) own\b", r"\bmend(ed)?\b", r"\blies?\b", r"\b(that|those) of\b",
    r"\b[Aa] (run|row|line|file|seed|model|image|epoch|class|point|sample) an? \w+",
]  # fmt: skip
"""Words and constructions that make English hard to read if they are frequent."""

LONG_FUNCTION = 15
"""Lines of a body from which on it should have a blank line."""

DENSE_NODES = 14
DENSE_BRANCHES = 8
"""A function with more syntax nodes per line, and at least so many branches, is hard to read."""

BRANCHES = (
    ast.If, ast.For, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension, ast.BoolOp,
    ast.Assert, ast.match_case,
)  # fmt: skip
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)


@dataclass
class Source:
    """A Python file with what is measured of it; places are `path:line name`."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [node for node in self.nodes if isinstance(node, FUNCTIONS)]

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @property
    def code_lines(self) -> int:
        """Lines that are neither blank nor a comment nor part of a docstring."""
        documentation = _docstring_lines(self.tree)
        stripped = enumerate(map(str.strip, self.text.splitlines()), start=1)
        return sum(
            bool(line) and not line.startswith("#") and number not in documentation
            for number, line in stripped
        )

    @property
    def statements(self) -> int:
        """Statements that are neither docstrings nor descriptions of attributes."""
        return sum(isinstance(node, ast.stmt) and not _is_text(node) for node in self.nodes)

    @property
    def names(self) -> list[str]:
        """The place of each variable, parameter, attribute, function and class that is bound."""
        places = []
        for node in self.nodes:
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                places.append((node.lineno, node.name))
            elif isinstance(node, ast.arg):
                places.append((node.lineno, node.arg))
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                places.append((node.lineno, node.id))
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                places.append((node.lineno, node.attr))
        return [f"{self.path}:{line} {name}" for line, name in places]

    @property
    def bare_names(self) -> list[str]:
        """Names that are only a preposition, participle or pronoun, or begin with `of_`."""
        return [place for place in self.names if _is_bare(place.rpartition(" ")[2])]

    @property
    def folded_assignments(self) -> list[str]:
        """Assignments of several expressions to several names in one statement."""
        assignments = [node for node in self.nodes if isinstance(node, ast.Assign)]
        return [f"{self.path}:{node.lineno}" for node in assignments if _is_folded(node)]

    @property
    def long_functions(self) -> list[str]:
        return [f"{self.path}:{node.lineno} {node.name}" for node in self._long_functions]

    @property
    def unbroken_functions(self) -> list[str]:
        """Long functions without a blank line in their body."""
        lines = self.text.splitlines()
        return [
            f"{self.path}:{node.lineno} {node.name}"
            for node in self._long_functions
            if all(map(str.strip, lines[_body(node)[0].lineno - 1 : node.end_lineno]))
        ]

    @property
    def _long_functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        def body_length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
            body = _body(node)
            return node.end_lineno - body[0].lineno + 1 if body else 0

        return [node for node in self.functions if body_length(node) >= LONG_FUNCTION]

    @property
    def dense_functions(self) -> list[str]:
        """Functions that have both many nodes per line and many branches."""
        places = []
        for node in self.functions:
            children = list(ast.walk(node))
            lines = node.end_lineno - node.lineno + 1 - len(_docstring_lines(node))
            branches = 1 + sum(isinstance(child, BRANCHES) for child in children)
            if len(children) / max(1, lines) > DENSE_NODES and branches >= DENSE_BRANCHES:
                places.append(f"{self.path}:{node.lineno} {node.name}")
        return places

    @property
    def prose(self) -> str:
        """Docstrings and comments, without code."""
        parts = []
        for node in self.nodes:
            if isinstance(node, DOCUMENTED):
                docstring = re.sub(r"`[^`]*`", "X", ast.get_docstring(node) or "")
                parts.append(re.sub(r">>>.*", "", docstring))
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        parts += [t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT]
        return "\n".join(parts)


def read_sources(*folders: Path) -> list[Source]:
    return [Source(path) for folder in folders for path in sorted(folder.rglob("*.py"))]


def prose_of_markdown(path: Path) -> str:
    """The text of a page, without code and without the targets of links."""
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.S)
    return re.sub(r"`[^`]*`", "X", re.sub(r"\]\([^)]*\)", "]", text))


def markers_per_1000_words(text: str) -> float:
    words = len(re.findall(r"[A-Za-z][A-Za-z'-]*", text))
    return 1000 * sum(len(re.findall(marker, text)) for marker in MARKERS) / max(1, words)


def _is_bare(name: str) -> bool:
    return name.strip("_") in BARE_WORDS or bool(re.match("_?of_", name, re.I))


def _is_folded(node: ast.Assign) -> bool:
    target = node.targets[0]
    if not isinstance(target, ast.Tuple):
        return False
    same_length = isinstance(node.value, ast.Tuple) and len(node.value.elts) == len(target.elts)
    return same_length or isinstance(node.value, ast.GeneratorExp)


def _is_text(node: ast.AST) -> bool:
    constant = node.value if isinstance(node, ast.Expr) else None
    return isinstance(constant, ast.Constant) and isinstance(constant.value, str)


def _body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
    """The statements of a function after its docstring."""
    return node.body if ast.get_docstring(node) is None else node.body[1:]


def _docstring_lines(tree: ast.AST) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            lines.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines
