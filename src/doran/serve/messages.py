"""What the terminal chat says, in English and Korean. Words only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Lang = Literal["en", "ko"]


@dataclass(frozen=True)
class Messages:
    """One language's sentences; braces are filled with str.format."""

    welcome: str
    help: str
    thinking: str
    thought: str
    no_thought: str
    no_answer: str
    cut: str
    stopped: str
    forgot: str
    cleared: str
    temp: str
    seed: str
    saved: str
    exists: str
    unknown: str
    needs_number: str
    needs_path: str
    leave_hint: str
    bye: str


EN = Messages(
    welcome="Talking to {name}. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.",
    help="""\
/new          start over; the model forgets the conversation
/think        show the last thought in full
/temp 0.6     temperature; 0 takes the likeliest token each time
/seed 7       seed: the same words and seed give the same answer
/save FILE    save the conversation (.json, or .md for reading)
/quit         leave
A line that ends in \\ goes on in the next. //word sends /word to the model.""",
    thinking="thinking",
    thought="thought for {seconds:.1f} s, {tokens} tokens",
    no_thought="There is no thought to show yet.",
    no_answer="no answer",
    cut="stopped at the limit of {tokens} tokens",
    stopped="stopped",
    forgot="The conversation grew too long for the model; its oldest {turns} messages are forgotten.",
    cleared="New conversation.",
    temp="temperature {value:g}",
    seed="seed {value}",
    saved="Saved to {path}.",
    exists="{path} exists already; choose another name.",
    unknown="There is no command {name}; {hint}.",
    needs_number="{name} takes a number, such as {name} {example}.",
    needs_path="/save takes a file name, such as /save chat.json.",
    leave_hint="Once more, or Ctrl-D, to leave.",
    bye="Bye.",
)

KO = Messages(
    welcome="{name} 모델과 대화합니다. /help 명령 보기, Ctrl-C 답변 멈추기, Ctrl-D 나가기.",
    help="""\
/new          처음부터 다시: 지금까지의 대화를 잊습니다
/think        마지막 생각을 모두 보여 줍니다
/temp 0.6     온도: 0이면 늘 가장 그럴듯한 토큰을 고릅니다
/seed 7       시드: 같은 말과 시드에는 같은 답이 나옵니다
/save 파일    대화를 저장합니다 (.json, 읽기용은 .md)
/quit         나가기
줄 끝에 \\ 를 쓰면 다음 줄로 이어집니다. //말 은 /말 을 모델에 보냅니다.""",
    thinking="생각하는 중",
    thought="{seconds:.1f}초 동안 생각함, {tokens}토큰",
    no_thought="아직 보여 줄 생각이 없습니다.",
    no_answer="답 없음",
    cut="{tokens}토큰 한도에서 멈췄습니다",
    stopped="멈췄습니다",
    forgot="대화가 모델의 한도를 넘어, 가장 오래된 메시지 {turns}개를 잊었습니다.",
    cleared="새 대화입니다.",
    temp="온도 {value:g}",
    seed="시드 {value}",
    saved="{path}에 저장했습니다.",
    exists="{path} 파일이 이미 있습니다. 다른 이름을 쓰세요.",
    unknown="{name} 명령은 없습니다. {hint}.",
    needs_number="{name} 뒤에는 수를 씁니다. 예: {name} {example}",
    needs_path="/save 뒤에는 파일 이름을 씁니다. 예: /save chat.json",
    leave_hint="나가려면 한 번 더, 또는 Ctrl-D 를 누르세요.",
    bye="안녕히 가세요.",
)

BY_LANG: dict[Lang, Messages] = {"en": EN, "ko": KO}
