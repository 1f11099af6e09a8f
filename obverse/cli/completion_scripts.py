"""The completion scripts of bash, zsh and fish, written from the words of the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CommandWords:
    """What may follow a command: option names with their fixed values (empty for free ones), and first words.

    `by_first` has further options after a first word: a method, or a question of `analyze`. `takes_runs`: whether a run
    folder may follow. `repeats_firsts`: whether the first words may follow each other, as the methods of `compare`.
    """

    summary: str
    options: Mapping[str, tuple[str, ...]]
    firsts: tuple[str, ...] = ()
    by_first: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    takes_runs: bool = False
    repeats_firsts: bool = False


Words = Mapping[str, CommandWords]

BASH = r"""# Completion of obverse in bash: put it into a file of ~/.local/share/bash-completion/completions/obverse,
# or add  source FILE  to ~/.bashrc.
_obverse_runs() {
    local folder
    for folder in runs/*/ runs/*/*/ "$1"*/; do
        folder=${folder%/}
        if [[ $folder == "$1"* && -f $folder/config.yaml ]]; then printf '%s\n' "$folder"; fi
    done
}

_obverse() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local command=${COMP_WORDS[1]} first=${COMP_WORDS[2]} words=""
    if [[ $current == "=" ]]; then
        current=""
    elif [[ $previous == "=" ]]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "@COMMANDS@ --help --version" -- "$current"))
        return
    fi
    case "$command:$first:${previous//-/_}" in
@VALUES@
    esac
    if [[ -z $words && $current == -* ]]; then
        case "$command" in
@OPTIONS@
        esac
        case "$command:$first" in
@MORE@
        esac
    elif [[ -z $words && $previous != --* && $command == @(@REPEATED@) ]] || [[ -z $words && $COMP_CWORD == 2 ]]; then
        case "$command" in
@FIRSTS@
        esac
    fi
    if [[ -n $words ]]; then COMPREPLY=($(compgen -W "$words" -- "$current")); fi
    if [[ $previous != --* && $current != -* ]]; then
        case "$command" in
        @RUNS@)
            compopt -o filenames 2> /dev/null # blanks in a folder's name are quoted
            mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(_obverse_runs "$current" | sort -u)
            ;;
        esac
    fi
}

complete -o default -F _obverse obverse
"""

ZSH = r"""#compdef obverse
# Completion of obverse in zsh: put it into a folder of $fpath as the file _obverse, or add  source FILE  to ~/.zshrc
# after compinit.
_obverse_runs() {
    local folder
    local -aU folders=(runs/*(N/) runs/*/*(N/) ${PREFIX}*(N/))
    for folder in $folders; do
        if [[ -f $folder/config.yaml ]]; then compadd -- $folder; fi
    done
}

_obverse() {
    local command=$words[2] first=$words[3] previous=${words[CURRENT-1]//-/_}
    local -a matching
    if [[ $PREFIX == --*=* ]]; then
        previous=${${PREFIX%%=*}//-/_}
        compset -P '*='
    fi
    if (( CURRENT == 2 )); then
        compadd -- @COMMANDS@ --help --version
        return
    fi
    case "$command:$first:$previous" in
@VALUES@
    esac
    if (( $#matching )); then
        compadd -- $matching
    elif [[ $PREFIX == -* ]]; then
        case "$command" in
@OPTIONS@
        esac
        case "$command:$first" in
@MORE@
        esac
        compadd -- $matching
    else
        if (( CURRENT == 3 )) || [[ $previous != __* && $command == (@REPEATED@) ]]; then
            case "$command" in
@FIRSTS@
            esac
            compadd -- $matching
        fi
        case "$command" in
        @RUNS@) _obverse_runs ;;
        esac
        _files
    fi
}

if [[ ${funcstack[1]} == _obverse ]]; then _obverse "$@"; else compdef _obverse obverse; fi
"""

FISH = """# Completion of obverse in fish: put it into ~/.config/fish/completions/obverse.fish
function __obverse_runs
    for folder in runs/*/ runs/*/*/
        test -f $folder/config.yaml; and echo (string trim --right --chars=/ $folder)
    end
end
"""


def bash(commands: Words) -> str:
    """The script of bash, from version 4 on."""
    return _filled(BASH, commands, "words", lambda words: f'"{" ".join(words)}"')


def zsh(commands: Words) -> str:
    """The script of zsh."""
    return _filled(ZSH, commands, "matching", lambda words: f"({' '.join(words)})")


def fish(commands: Words) -> str:
    """The script of fish: a line per word or option, with the conditions under which it is offered."""
    lines = [FISH]
    for name, command in commands.items():
        seen = f"__fish_seen_subcommand_from {name}"
        lines.append(_fish_line(f"-n __fish_use_subcommand -f -a {name} -d {_quoted(command.summary)}"))
        if command.firsts:
            is_first = _quoted(seen if command.repeats_firsts else f"{seen}; and test (count (commandline -opc)) -eq 2")
            lines.append(_fish_line(f"-n {is_first} -f -a {_quoted(' '.join(command.firsts))}"))
        if command.takes_runs:
            lines.append(_fish_line(f"-n {_quoted(seen)} -a '(__obverse_runs)'"))
        lines += (_fish_option(seen, option, values) for option, values in command.options.items())
        for (option, values), firsts in _by_option(command.by_first).items():
            condition = f"{seen}; and __fish_seen_subcommand_from {' '.join(firsts)}"
            lines.append(_fish_option(condition, option, values))
    return "\n".join(lines) + "\n"


def _fish_line(text: str) -> str:
    return f"complete -c obverse {text}"


def _fish_option(condition: str, option: str, values: tuple[str, ...]) -> str:
    fixed = f" -x -a {_quoted(' '.join(values))}" if values else ""
    return _fish_line(f"-n {_quoted(condition)} -l {option}{fixed}")


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _filled(script: str, commands: Words, variable: str, quote: Callable[[Iterable[str]], str]) -> str:
    """A script of bash or zsh with its cases: values of options, options, further options, and first words."""

    def case(pattern: str, words: Iterable[str], adds: str = "") -> str:
        return f"        {pattern}) {variable}{adds}={quote(words)} ;;"

    values, options, more, firsts = [], [], [], []
    for name, command in commands.items():
        values += [case(f"{name}:*:__{option}", words) for option, words in command.options.items() if words]
        options.append(case(name, [f"--{option}" for option in command.options]))
        if command.firsts:
            firsts.append(case(name, command.firsts))
        for names, added in _alike(command.by_first):
            pattern = "|".join(f"{name}:{first}" for first in names)
            more.append(case(pattern, ["", *(f"--{option}" for option in added)], "+"))
        for (option, words), names in _by_option(command.by_first).items():
            if words:
                values.append(case("|".join(f"{name}:{first}:__{option}" for first in names), words))
    parts = {
        "COMMANDS": " ".join(commands),
        "VALUES": "\n".join(values),
        "OPTIONS": "\n".join(options),
        "MORE": "\n".join(more),
        "FIRSTS": "\n".join(firsts),
        "REPEATED": "|".join(name for name, command in commands.items() if command.repeats_firsts),
        "RUNS": " | ".join(name for name, command in commands.items() if command.takes_runs),
    }
    for part, text in parts.items():
        script = script.replace(f"@{part}@", text)
    return script


def _alike(by_first: Mapping[str, Mapping[str, tuple[str, ...]]]) -> Iterator[tuple[list[str], tuple[str, ...]]]:
    """The first words by the options that they add, so that those of equal options are one case."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for first, options in by_first.items():
        groups.setdefault(tuple(options), []).append(first)
    yield from ((firsts, options) for options, firsts in groups.items())


def _by_option(
    by_first: Mapping[str, Mapping[str, tuple[str, ...]]],
) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """The first words that add an option, by the option with its fixed values."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for first, options in by_first.items():
        for option, values in options.items():
            groups.setdefault((option, values), []).append(first)
    return groups
