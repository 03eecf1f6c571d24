"""The report's style sheet. Light and dark by the reader's own setting; system fonts; nothing is fetched."""

from __future__ import annotations

CSS = """
:root{color-scheme:light dark;--bg:#fbfaf8;--card:#fff;--ink:#22252a;--soft:#6a6f78;--line:#e5e3de;
  --accent:#2563a8;--good:#1f7a5c;--bad:#b3432b;--c0:#2563a8;--c1:#cc5f1c;--c2:#1f8a70;--c3:#96519a;
  --c4:#8a7a1f;--c5:#7b8089}
@media (prefers-color-scheme:dark){
  :root{--bg:#16181c;--card:#1e2126;--ink:#e6e4df;--soft:#9aa0a9;--line:#31353c;--accent:#7ab5f2;--good:#5cc9a3;
    --bad:#ee8a70;--c0:#72b0f2;--c1:#f09a61;--c2:#54c6a4;--c3:#d096d4;--c4:#d0bf5c;--c5:#a3a8b0}
}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--bg);color:var(--ink);
  font:16px/1.6 system-ui,-apple-system,"Segoe UI","Apple SD Gothic Neo","Noto Sans KR","Noto Sans CJK KR",
  "Malgun Gothic",sans-serif;font-variant-numeric:tabular-nums;word-break:keep-all;overflow-wrap:anywhere}
main,header,footer{max-width:1060px;margin:0 auto;padding:0 20px}
header{padding-top:56px}
h1{font-size:clamp(1.7rem,5vw,2.35rem);line-height:1.2;letter-spacing:-.02em;margin:0;font-weight:650}
h2{font-size:1.25rem;letter-spacing:-.01em;margin:64px 0 6px;font-weight:650;scroll-margin-top:16px}
h3{font-size:1rem;margin:32px 0 10px;font-weight:600}
p{margin:8px 0;max-width:70ch}
.soft,figcaption+.legend,.note{color:var(--soft)}
.note{font-size:.875rem;max-width:90ch}
a{color:var(--accent);text-decoration:none}
a:hover{text-decoration:underline}
nav{display:flex;flex-wrap:wrap;gap:4px 20px;margin:24px 0 0;padding:12px 0;border-block:1px solid var(--line);
  font-size:.9rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:12px;margin:28px 0 0;padding:0;
  list-style:none}
.cards li,.chart,.sample,.scroll,pre{background:var(--card);border:1px solid var(--line);border-radius:10px}
.cards li{padding:14px 16px}
.cards .said{display:block;font-size:.82rem;color:var(--soft);line-height:1.35}
.cards b{display:block;font-size:1.65rem;font-weight:620;letter-spacing:-.02em;line-height:1.35}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:14px}
.charts .chart:only-child{max-width:640px}
.chart{margin:0;padding:14px 14px 8px;min-width:0}
figcaption{font-weight:600;font-size:.95rem;line-height:1.4}
.chart svg{display:block;width:100%;height:auto;margin-top:4px;overflow:visible}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;margin:2px 0 0;padding:0;list-style:none;font-size:.82rem;
  color:var(--soft)}
.legend i{display:inline-block;width:14px;height:3px;border-radius:2px;background:var(--c);margin-right:6px;
  vertical-align:middle}
.legend b{color:var(--ink);font-weight:600}
.grid{stroke:var(--line);stroke-width:1}
.tick,.axis{font-size:12px;fill:var(--soft)}
.axis{font-size:11.5px}
.line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.pale{fill:none;stroke:var(--c);stroke-width:1;opacity:.28}
.dot{fill:var(--c)}
.hit{fill:var(--c);fill-opacity:0}
.hit:hover{fill-opacity:.35}
.s0{--c:var(--c0)}
.s1{--c:var(--c1)}
.s2{--c:var(--c2)}
.s3{--c:var(--c3)}
.s4{--c:var(--c4)}
.s5{--c:var(--c5)}
.scroll{overflow-x:auto;margin:10px 0}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{padding:9px 14px;text-align:right;white-space:nowrap;vertical-align:top}
th:first-child,td:first-child{text-align:left}
th.text,td.text{text-align:left}
thead th{font-weight:600;font-size:.82rem;color:var(--soft);border-bottom:1px solid var(--line)}
tbody tr+tr>*{border-top:1px solid var(--line)}
tbody th{font-weight:500}
td small{display:block;color:var(--soft);font-size:.76rem;line-height:1.4}
.mark{display:block;width:84px;height:4px;margin:4px 0 2px auto}
.track{fill:var(--line)}
.band{fill:var(--c0);opacity:.45}
.value{fill:var(--c0)}
.timebar{display:flex;gap:2px;height:14px;margin:18px 0 12px}
.timebar span{background:var(--c);min-width:2px}
.timebar span:first-child{border-radius:7px 0 0 7px}
.timebar span:last-child{border-radius:0 7px 7px 0}
.key{display:inline-block;width:9px;height:9px;border-radius:3px;background:var(--c);margin-right:9px}
.samples{display:grid;gap:12px}
.sample{padding:14px 18px}
.sample p{margin:0 0 6px;white-space:pre-wrap;max-width:none}
.sample .prompt{font-weight:550}
.sample .who{float:right;margin-left:12px;font-size:.8rem;color:var(--soft)}
.reward{font-weight:600}
.reward.good{color:var(--good)}
.reward.bad{color:var(--bad)}
details>summary{cursor:pointer;color:var(--soft);font-size:.875rem;padding:4px 0}
details>summary:hover{color:var(--ink)}
summary:focus-visible,a:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.thought{margin:4px 0 10px;padding:2px 0 2px 14px;border-left:3px solid var(--line);color:var(--soft);
  white-space:pre-wrap;font-size:.92rem;max-height:24em;overflow-y:auto}
pre{margin:10px 0;padding:16px 18px;overflow-x:auto;
  font:.82rem/1.55 ui-monospace,"SF Mono",Consolas,"Noto Sans Mono CJK KR",monospace}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 22px;font-size:.9rem;margin:12px 0}
dt{color:var(--soft)}
dd{margin:0}
footer{margin-top:72px;padding-top:16px;padding-bottom:48px;font-size:.82rem;color:var(--soft)}
@media (max-width:560px){
  main,header,footer{padding-left:14px;padding-right:14px}
  header{padding-top:32px}
  h2{margin-top:48px}
  .chart{padding:12px 10px 6px}
  .tick{font-size:14px}
  .axis{font-size:13.5px}
  th,td{padding:8px 10px}
  .sample{padding:12px 14px}
  dl{grid-template-columns:1fr;gap:0}
  dd{margin-bottom:8px}
}
@media print{
  body{background:#fff}
  details{display:block}
  .chart,.sample,tr{break-inside:avoid}
  nav{display:none}
}
"""
