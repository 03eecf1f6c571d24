"""The Korean catalogue: English text -> Korean. Data only.

하십시오체 in messages, short noun or 명사형 endings in lists and option helps. Particles after a changing part are
written so that they fit any word (경로:, 이름:), since the part may be Latin.
"""

# ruff: noqa: E501 (one message a line, however long)
from __future__ import annotations

TEXTS = {
    # the help page
    "doran builds, trains, measures and serves small reasoning models, DeepSeek-R1's":
        "도란은 작은 추론 모델을 DeepSeek-R1의 방식으로 만들고, 학습하고, 평가하고, 서비스합니다.",
    "way, on the computer you have. It needs no GPU and no network.": "지금 쓰는 컴퓨터면 됩니다. GPU도 네트워크도 필요 없습니다.",
    "Usage: doran VERB [OPTIONS]": "사용법: doran 명령 [옵션]",
    "Start here": "시작하기",
    "Use a model": "모델 쓰기",
    "Train a model you have": "가지고 있는 모델 학습하기",
    "doran VERB --help explains a verb and its options.   doran --version":
        "doran 명령 --help: 명령과 옵션 설명   doran --version",
    "A first session:": "처음 해 볼 일:",
    "  doran run recipes/tiny-r1.yaml        # about half an hour on 2 cores":
        "  doran run recipes/tiny-r1.yaml        # 코어 2개로 30분쯤",
    "Exit codes: 0 ok, 1 failed, 2 wrong usage or settings, 3 a check failed,":
        "종료 코드: 0 정상, 1 실패, 2 잘못된 사용법이나 설정, 3 검사 불합격,",
    "4 out of memory, 5 budget reached, 130 interrupted.": "4 메모리 부족, 5 예산 소진, 130 중단.",
    # verbs
    "check this machine: memory, disk, speed, what is missing": "이 컴퓨터 점검: 메모리, 디스크, 속도, 빠진 것",
    "what a model, job or recipe will cost: time, memory, energy, money": "모델, 작업, 레시피의 비용: 시간, 메모리, 전력, 돈",
    "train a reasoning model from nothing, as a recipe says": "레시피대로 추론 모델을 처음부터 학습",
    "talk with a model in the terminal, its thoughts dimmed": "터미널에서 모델과 대화 (생각은 흐리게 표시)",
    "answer over HTTP as OpenAI's and Anthropic's APIs do": "OpenAI, Anthropic 호환 HTTP API로 서비스",
    "continue one prompt; --json for scripts": "프롬프트 하나를 이어 쓰기, 스크립트에서는 --json",
    "measure a model on a task, with confidence intervals": "과제로 모델 평가 (신뢰 구간 포함)",
    "write its model card from evaluations and receipts": "평가 결과와 영수증으로 모델 카드 작성",
    "make it smaller and faster: 8 or 4 bits a weight, damage measured": "가중치를 8비트나 4비트로 줄이고 손실 측정",
    "write it as a Hugging Face folder, GGUF or PEFT, checked by replay": "Hugging Face 폴더, GGUF, PEFT로 내보내고 다시 돌려 보며 검증",
    "next-token training on your own text, from a folder or from nothing": "내 글로 사전 학습 (있는 모델을 이어서, 또는 처음부터)",
    "supervised fine-tuning on prompts and answers": "질문과 답으로 지도 미세 조정 (SFT)",
    "reinforcement learning (GRPO) on a task with a checkable answer": "답을 채점할 수 있는 과제로 강화 학습 (GRPO)",
    "read what a model said during RL, with rewards and advantages": "강화 학습 중 모델이 한 말을 보상과 함께 읽기",
    "teach a small model with a large one's answers or probabilities": "큰 모델의 답이나 확률로 작은 모델 가르치기 (증류)",
    "learn from pairs which replies people prefer, for RL": "사람이 고른 답 쌍에서 선호를 배우기, 강화 학습의 보상으로",
    "more Korean: new tokens, continued training, before and after": "한국어 강화: 토큰 추가, 이어서 학습, 전후 비교",
    # common errors and hints
    "interrupted": "중단되었습니다",
    "out of memory": "메모리가 부족합니다",
    "use a smaller batch, a shorter context or a smaller model; `doran doctor` shows what is free":
        "배치나 문맥을 줄이거나 더 작은 모델을 쓰십시오. 남은 메모리는 `doran doctor`로 볼 수 있습니다",
    "use en, ko or mixed": "en, ko, mixed 가운데 하나를 쓰십시오",
    "use train or test": "train이나 test를 쓰십시오",
    "use en or ko": "en이나 ko를 쓰십시오",
    "check the path": "경로를 확인하십시오",
    "check the data path": "데이터 경로를 확인하십시오",
    "check the folder name": "폴더 이름을 확인하십시오",
    "mend that line": "그 줄을 고치십시오",
    "give a folder with config.json and *.safetensors": "config.json과 *.safetensors가 있는 폴더를 지정하십시오",
    "give a file with one JSON object a line": "한 줄에 JSON 객체 하나씩 있는 파일을 지정하십시오",
    "give data: FILE.jsonl": "data: FILE.jsonl을 지정하십시오",
    "give the name of a file, such as result.json": "result.json 같은 파일 이름을 지정하십시오",
    "give another --out, or delete that file to start again": "다른 --out을 쓰거나, 처음부터 하려면 그 파일을 지우십시오",
    "give another --out, or delete that folder to start again": "다른 --out을 쓰거나, 처음부터 하려면 그 폴더를 지우십시오",
    "give a new folder": "새 폴더를 지정하십시오",
    "give one of --model DIR and --endpoint URL": "--model DIR과 --endpoint URL 가운데 하나만 지정하십시오",
    "--endpoint asks a running server": "--endpoint는 실행 중인 서버를 평가합니다",
    "is the server running?": "서버가 실행 중입니까?",
    "is this an OpenAI-compatible server?": "OpenAI 호환 서버가 맞습니까?",
    "check --served-model and its limits": "--served-model 이름과 서버의 제한을 확인하십시오",
    "write it as http://127.0.0.1:8000": "http://127.0.0.1:8000 처럼 쓰십시오",
    "add --force to replace it": "덮어쓰려면 --force를 붙이십시오",
    "the texts hold no Korean words": "글에 한국어 낱말이 없습니다",
    "give Korean text to learn new tokens from": "새 토큰을 배울 한국어 글을 지정하십시오",
    "use a model with a byte-level BPE tokenizer (DeepSeek, Llama 3, Qwen)":
        "바이트 단위 BPE 토크나이저를 쓰는 모델(DeepSeek, Llama 3, Qwen)을 고르십시오",
    "use --dtype bfloat16, a smaller model, or close other programs":
        "--dtype bfloat16이나 더 작은 모델을 쓰거나, 다른 프로그램을 닫으십시오",
    "free some space, then run the same command again": "공간을 비운 뒤 같은 명령을 다시 실행하십시오",
    "choose another folder, or change its permissions": "다른 폴더를 고르거나 권한을 바꾸십시오",
    "use --style plain": "--style plain을 쓰십시오",
    "leave it out": "빼고 실행하십시오",
    "leave --data out, or use --task jsonl": "--data를 빼거나 --task jsonl을 쓰십시오",
    "the two evaluations share no question": "두 평가에 같은 질문이 없습니다",
    "follow the mends above": "위의 해결 방법을 따르십시오",
    "give the recipe another name, or add --redo to discard and make it again":
        "레시피에 다른 이름을 주거나, 버리고 다시 만들려면 --redo를 붙이십시오",
    "what is done is kept: run the same command with a larger budget to continue":
        "지금까지 한 것은 남아 있습니다. 예산을 늘려 같은 명령을 다시 실행하면 이어집니다",
    "run the same command with a larger budget to continue": "예산을 늘려 같은 명령을 다시 실행하면 이어집니다",
    "run the same command to continue": "같은 명령을 다시 실행하면 이어집니다",
    "use KRW, USD, hours or kWh": "KRW, USD, hours, kWh 가운데 하나로 적으십시오",
    'write "500,000 KRW", "30 USD", "12 hours" or "5 kWh"': '"50만원", "30 USD", "12 hours", "5 kWh"처럼 적으십시오',
    "give what you can spend": "쓸 수 있는 금액이나 시간을 적으십시오",
    "wait for it, or give this one a --name": "끝나기를 기다리거나 --name으로 다른 이름을 주십시오",
}

PATTERNS = (
    (r"unknown verb (.+)", "모르는 명령입니다: {0}"),
    (r"unknown option (.+)", "모르는 옵션입니다: {0}"),
    (r"did you mean (.+?)\? \(`doran --help` explains them\)", "혹시 {0}? (`doran --help`에 설명이 있습니다)"),
    (r"choose one of: (.+?) \(`doran --help` explains them\)", "다음 중에서 고르십시오: {0} (`doran --help`에 설명이 있습니다)"),
    (r"did you mean (.+)\?", "혹시 {0}?"),
    (r"choose one of: (.+)", "다음 중에서 고르십시오: {0}"),
    (r"doran (.+) --help lists all options", "모든 옵션은 doran {0} --help에 있습니다"),
    (r"No such option: (.+)", "그런 옵션은 없습니다: {0}"),
    (r"Missing (?:option|argument|parameter):? (.+)", "꼭 필요한 옵션이나 인자가 빠졌습니다: {0}"),
    (r"Invalid value for (.+?): (.+)", "{0}의 값이 올바르지 않습니다: {1}"),
    (r"Got unexpected extra arguments? \((.+)\)", "필요 없는 인자가 있습니다: {0}"),
    (r"(.+): no such file", "{0}: 그런 파일이 없습니다"),
    (r"(.+): no such folder", "{0}: 그런 폴더가 없습니다"),
    (r"(.+): no rows", "{0}: 내용이 없습니다"),
    (r"(.+): the disk is full(.*)", "{0}: 디스크가 가득 찼습니다{1}"),
    (r"(.+): no permission to write here", "{0}: 쓰기 권한이 없습니다"),
    (r"(.+): unknown key", "{0}: 모르는 설정입니다"),
    (r"(.+): not JSON \((.+)\)", "{0}: JSON이 아닙니다 ({1})"),
    (r"(.+): not a model folder, it has no config.json", "{0}: 모델 폴더가 아닙니다 (config.json이 없습니다)"),
    (r"the package (\S+) is not installed", "패키지가 설치되어 있지 않습니다: {0}"),
    (r"no task named (.+)", "그런 과제는 없습니다: {0}"),
    (r"no split named (.+)", "그런 분할은 없습니다: {0}"),
    (r"(--\S+): got (.+)", "{0}: 쓸 수 없는 값입니다: {1}"),
    (r"--data: the task (\S+) makes its own questions", "--data: 과제 {0}에는 파일이 필요 없습니다 (문제를 스스로 만듭니다)"),
    (r"--out (.+): this is a folder", "--out {0}: 폴더입니다"),
    (r"--out (.+): exists already", "--out {0}: 이미 있습니다"),
    (r"(.+) cannot be reached \((.+)\)", "{0}: 연결할 수 없습니다 ({1})"),
    (r"(.+) refused with (\d+): (.*)", "{0}: 서버가 거절했습니다 ({1}): {2}"),
    (r"(.+) was begun with (\S+) (.+), now it is (.+)", "{0}: 처음 실행과 설정 {1}의 값이 다릅니다 (처음 {2}, 지금 {3})"),
    (r"(.+) was made with other settings", "{0}: 다른 설정으로 만든 폴더입니다"),
    (r"(.+) was not written by doran", "{0}: 도란이 쓴 파일이 아닙니다"),
    (r"another doran run is at work in (.+)", "다른 doran 실행이 이 폴더를 쓰고 있습니다: {0}"),
    (r"this tokenizer is (\S+), not BPE, and cannot be extended", "이 토크나이저는 BPE가 아니라서({0}) 확장할 수 없습니다"),
    (r"this tokenizer uses (\S+) and cannot be extended", "이 토크나이저는 {0} 설정 때문에 확장할 수 없습니다"),
    (r"(.+): the weights need about (\S+) GiB, (\S+) GiB are free", "{0}: 가중치에 {1} GiB가 필요하지만 {2} GiB만 남아 있습니다"),
    (r"the two evaluations had other questions", "두 평가의 질문이 서로 다릅니다"),
    (r"the two evaluations had another (\S+): (.+)", "두 평가의 조건이 다릅니다. {0}: {1}"),
    (r"budget of (.+) reached: (.+) spent", "예산을 다 썼습니다: {0} 가운데 {1}"),
    (r"budget (.+) is not understood", "예산을 읽을 수 없습니다: {0}"),
    (r"budget (.+) has no known unit", "예산의 단위를 알 수 없습니다: {0}"),
    (r"budget (.+) is not above zero", "예산은 0보다 커야 합니다: {0}"),
    (r"stopped after step (\d+) of (\d+)", "{1}스텝 가운데 {0}스텝까지 하고 멈췄습니다"),
    (r"doran cannot work here yet: (.+)", "아직 이 컴퓨터에서 도란을 쓸 수 없습니다: {0}"),
)

VERB_HELP = {
    "doctor": "이 컴퓨터를 점검합니다: 파이썬, torch, 코어, 메모리, 디스크, 컴파일러, 속도.\n\n"
              "무엇이 빠졌고 어떻게 고치는지 알려 줍니다. 도란을 쓸 수 없는 상태면 종료 코드는 3입니다.",
    "run": "레시피에 적힌 대로 추론 모델을 처음부터 단계별로 학습합니다.\n\n"
           "멈춘 실행은 같은 명령으로 이어지고, 끝난 단계는 다시 하지 않습니다. KEY=VALUE로 레시피의 설정을 바꿉니다.\n\n"
           "예: doran run recipes/tiny-r1.yaml --name second seed=1",
    "eval": "모델이나 서버를 과제로 평가합니다. `doran eval compare A.json B.json`은 --out으로 남긴 두 결과를 비교합니다.\n\n"
            "pass@1은 질문마다 K번 답하게 한 정답률의 평균, pass@K는 K번 가운데 한 번이라도 맞을 확률, cons@K는 다수결의 "
            "정답률입니다. 신뢰 구간은 95%이고, 답이 아니라 질문의 수를 기준으로 합니다. 과제의 설정은 task.KEY=VALUE로 "
            "바꿉니다. 잘린 답은 답이 없는 것으로 칩니다. 레시피 해시가 같으면 숫자도 같습니다.\n\n"
            "예: doran eval --model DIR --task gsm8k --data test.jsonl task.all_rows=true --n 200 --k 4 --json",
    "eval compare": "같은 질문에 대한 두 결과를 비교합니다: 차이, 신뢰 구간, 우연으로 그런 차이가 날 확률(p).\n\n"
                    "짝지은 정확 검정이며 질문의 수를 기준으로 합니다. 질문이나 조건이 다른 결과는 비교하지 않습니다.\n\n"
                    "예: doran eval compare before.json after.json",
    "card": "모델 폴더에 모델 카드(README.md)를 씁니다: 라이선스, 기반 모델, 데이터, 비용, 점수.\n\n"
            "예: doran card --model runs/mine/model --eval result.json --license apache-2.0",
    "localise": "모델이 한국어를 더 잘하게 합니다: 측정, 토큰 추가, 이어서 학습, SFT, GRPO, 다시 측정, 내보내기.\n\n"
                "`doran localise measure`는 측정만, `doran localise extend`는 토큰 추가만 합니다. 멈춘 실행은 같은 명령으로 "
                "이어집니다.\n\n예: doran localise recipes/localise-tiny.yaml --model runs/tiny-r1/model",
    "pretrain": "글(.txt, JSONL, Parquet)로 다음 토큰 맞히기를 학습합니다.\n\n--model은 있는 모델을 이어서, --config는 "
                "config.json의 모양으로 처음부터 학습합니다. 토크나이저를 주지 않으면 모델의 것을 쓰고, 처음부터 학습할 때는 그 글로 "
                "새로 만듭니다. 멈춘 실행은 같은 명령으로 이어집니다.\n\n"
                "예: doran pretrain --model DIR --data book.txt --out runs/mine --epochs 2 train.lr=1e-5",
    "sft": "모델을 대화 자료로 미세 조정합니다(SFT).\n\n한 줄에 messages, 또는 prompt와 answer가 들어갑니다. 모델은 "
           "답만 배웁니다. 설정은 train.KEY=VALUE로 바꿉니다.\n\n"
           "예: doran sft --model DIR --data mine.jsonl --out runs/mine train.epochs=3 train.lr=1e-5",
    "rl": "답을 채점할 수 있는 과제로 모델을 강화 학습합니다(GRPO).\n\nCtrl-C를 누르면 체크포인트를 남기고 멈추며, 같은 "
          "명령으로 이어집니다. 설정은 train.KEY=VALUE와 task.KEY=VALUE로 바꿉니다.\n\n"
          "예: doran rl --model DIR --task gsm8k --data train.jsonl.gz --out runs/mine train.steps=200 train.lr=1e-6",
    "chat": "터미널에서 모델과 이야기합니다. 생각은 흐리게 보입니다.\n\n예: doran chat --model runs/latest",
}

OPTIONS = {
    "Model folder: config.json, *.safetensors, tokenizer.": "모델 폴더: config.json, *.safetensors, 토크나이저.",
    "Folder to write; the same command continues what is there.": "결과를 쓸 폴더. 같은 명령을 다시 실행하면 이어집니다.",
    "Your data, JSONL or Parquet: prompt and answer, or messages.": "데이터 파일(JSONL, Parquet): prompt와 answer, 또는 messages.",
    "The same seed gives the same result.": "시드가 같으면 결과도 같습니다.",
    "Print exactly one JSON object on stdout, for scripts.": "스크립트를 위해 JSON 객체 하나만 출력합니다.",
    "Show what would be done, with sizes and times, and stop.": "실행하지 않고, 무엇을 할지 크기와 예상 시간만 보여 줍니다.",
    'Stop cleanly at this cost (exit code 5), such as "2 hours" or "3000 KRW".':
        '비용이 이만큼 들면 체크포인트를 남기고 멈춥니다(종료 코드 5). 예: "2 hours", "3000 KRW".',
    "CPU threads; all cores unless given.": "CPU 스레드 수. 없으면 모든 코어를 씁니다.",
    "float32 or bfloat16: how weights are held.": "float32나 bfloat16: 가중치를 담는 형식.",
    "Settings to change, such as train.lr=3e-4.": "바꿀 설정. 예: train.lr=3e-4.",
    "Ask this OpenAI-compatible server instead.": "모델 폴더 대신 이 OpenAI 호환 서버를 평가합니다.",
    "The model's name on that server.": "서버에서 쓰는 모델 이름.",
    "Questions asked of the server at once.": "서버에 동시에 보낼 질문 수.",
    "Questions.": "질문 수.",
    "Completions of each question.": "질문마다 받을 답의 수.",
    "test (held out) or train.": "test(따로 떼어 둔 문제) 또는 train.",
    "Questions in en, ko or mixed, where the task has both.": "질문의 언어: en, ko, mixed.",
    "0 takes the likeliest token; then use --k 1.": "0이면 가장 그럴듯한 토큰만 고릅니다. 그때는 --k 1을 쓰십시오.",
    "Sample from the likeliest tokens only.": "확률이 높은 토큰 가운데서만 뽑습니다.",
    "A reply that is longer counts as no answer.": "이보다 길어서 잘린 답은 답이 없는 것으로 칩니다.",
    "An answer ends before this text; thoughts may hold it. Repeat.": "이 문자열이 나오면 그 앞에서 답을 끝냅니다. 생각 속에 나오는 것은 괜찮습니다. 여러 번 쓸 수 있습니다.",
    "Completions decoded together.": "함께 생성할 답의 수.",
    "Also write every question and verdict as JSON, and each reply as it comes: a killed command goes on.":
        "모든 질문과 판정을 JSON으로도 씁니다. 답이 나오는 대로 남기므로, 멈춘 평가는 이어집니다.",
    "Also write a page with plots.": "그래프가 있는 페이지도 씁니다.",
    "Look for the questions in this training file. Repeat.": "이 학습 파일에 같은 질문이 있는지 찾습니다. 여러 번 쓸 수 있습니다.",
    "What an hour costs; else this machine's power.": "한 시간의 값(USD). 없으면 이 컴퓨터의 전기 요금.",
    "What a million generated tokens cost instead.": "생성 토큰 백만 개의 값(USD).",
    "Show this message and exit.": "이 도움말을 보여 줍니다.",
}
