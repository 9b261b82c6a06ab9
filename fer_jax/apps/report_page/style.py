"""The style sheet of the report page, for light and dark colour schemes, phones and print."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --panel: #f5f5f2; --ink: #1b1d21; --muted: #666b74; --rule: #e3e3de; --shade: #f3f3ee;
  --accent: #2459a6; --quiet: #9ba2ad; --warn: #9a5b00; --warn-panel: #fdf3e0; --good: #2c7a4b;
  --other-0: #c2612a; --other-1: #2f8a5b; --other-2: #8656b5; --other-3: #b43d68;
  --shallow: #8ccabd; --deep: #45287f; --full: #2459a6; --on-full: #ffffff;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --panel: #1d2024; --ink: #e7e8ea; --muted: #9aa0aa; --rule: #2e3238; --shade: #1c1f23;
    --accent: #82aef0; --quiet: #6f7682; --warn: #efb45e; --warn-panel: #2b2313; --good: #77c696;
    --other-0: #e79360; --other-1: #6fc494; --other-2: #b998e2; --other-3: #e5809f;
    --shallow: #3d7f76; --deep: #cdb6ff; --full: #4d86d8; --on-full: #ffffff;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 3rem 1.5rem 4rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 400 0.9375rem/1.55 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
    Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word;
}
h1 {
  margin: 0.2rem 0 0; font-size: 1.625rem; line-height: 1.25; font-weight: 620;
  letter-spacing: -0.015em; text-wrap: balance;
}
h2 { margin: 0 0 1rem; font-size: 1.125rem; font-weight: 620; letter-spacing: -0.005em; }
h3 { margin: 1.5rem 0 0.5rem; font-size: 0.875rem; font-weight: 600; }
p { margin: 0 0 0.75rem; max-width: 46rem; }
a { color: var(--accent); text-underline-offset: 0.15em; }
code, pre { font: 0.8125rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
section { margin-top: 2.75rem; padding-top: 1.25rem; border-top: 1px solid var(--rule); }
.muted, figcaption small, .lead { color: var(--muted); }
.eyebrow { color: var(--muted); font-size: 0.8125rem; }
.nowrap, td.n, th.n { white-space: nowrap; }

nav { margin-top: 1.5rem; font-size: 0.8125rem; display: flex; flex-wrap: wrap; gap: 0.25rem 1.1rem; }
nav a { color: var(--muted); text-decoration: none; }
nav a:hover { color: var(--accent); text-decoration: underline; }

.headline {
  display: grid; grid-template-columns: minmax(15rem, 2fr) 5fr; gap: 1.5rem 3rem; margin-top: 2rem;
  align-items: start;
}
.headline h3 { margin-top: 0; }
.figure-of-merit .value {
  font-size: 3.5rem; line-height: 1; font-weight: 640; letter-spacing: -0.035em;
  white-space: nowrap;
}
.figure-of-merit .value span { font-size: 0.5em; font-weight: 500; letter-spacing: 0; color: var(--muted); }
.figure-of-merit .name { font-weight: 600; margin-bottom: 0.5rem; }
.figure-of-merit p { margin-bottom: 0; }
.figure-of-merit .interval { margin-top: 0.6rem; }
dl.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: 1rem 1.5rem;
  margin: 0;
}
dl.facts dt { color: var(--muted); font-size: 0.8125rem; }
dl.facts dd { margin: 0; font-weight: 550; }
dl.facts dd small { display: block; font-weight: 400; color: var(--muted); font-size: 0.8125rem; }
.state::before {
  content: ""; display: inline-block; width: 0.55em; height: 0.55em; border-radius: 50%;
  margin-right: 0.45em; background: var(--warn);
}
.state.good::before { background: var(--good); }

.notice {
  margin: 1.5rem 0 0; padding: 0.75rem 1rem; border-left: 3px solid var(--warn);
  background: var(--warn-panel); max-width: none;
}
.notice + .notice { margin-top: 0.5rem; }

.columns {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 2rem 2.5rem; align-items: start;
}
.columns > * { min-width: 0; }
.columns figure + h3 { margin-top: 1.75rem; }
.apart { margin-top: 1.75rem; }
.narrow { max-width: 40rem; }
figure { margin: 0; break-inside: avoid; }
figcaption { font-weight: 600; font-size: 0.875rem; margin-bottom: 0.35rem; }
figcaption small { display: block; font-weight: 400; font-size: 0.8125rem; }
.chart svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
.legend {
  display: flex; flex-wrap: wrap; gap: 0.1rem 0.9rem; margin: 0.25rem 0 0; padding: 0;
  list-style: none; font-size: 0.8125rem; color: var(--muted);
}
.legend i, i.chip {
  display: inline-block; width: 1.1em; height: 0; border-top: 2px solid var(--colour);
  margin-right: 0.4em; vertical-align: 0.28em;
}
.legend i.dashed, i.chip { border-top-style: dashed; }
.legend i.thin { border-top-width: 1px; opacity: 0.5; }
.legend i.ring {
  width: 0.8em; height: 0.8em; border: 1.5px solid var(--colour); border-radius: 50%;
  vertical-align: -0.05em;
}

.points { display: grid; grid-template-columns: fit-content(40%) 1fr fit-content(6rem); font-size: 0.875rem; }
.points > div {
  display: grid; grid-column: 1 / -1; grid-template-columns: subgrid; padding: 0.3rem 0;
  border-bottom: 1px solid var(--rule);
}
.points .value { text-align: right; }
.points .track { position: relative; margin: 0 1.6rem; }
.points .track > * { position: absolute; left: var(--at); top: 50%; transform: translate(-50%, -50%); }
.points > .axis { border: 0; color: var(--muted); font-size: 0.8125rem; }
.points .axis .track { height: 1.2rem; }
.points .axis .track > * { white-space: nowrap; }
i.span { height: 2px; width: var(--long); background: var(--accent); opacity: 0.55; }
.points .track > i.span { transform: translateY(-50%); }
i.dot { width: 0.6rem; height: 0.6rem; border-radius: 50%; background: var(--accent); }
i.print { width: 0.55rem; height: 0.55rem; border: 1.5px solid var(--other-0); rotate: 45deg; }
.legend i.dot { width: 0.6rem; height: 0.6rem; vertical-align: -0.02em; border: 0; }
.legend i.print { width: 0.5rem; height: 0.5rem; vertical-align: 0; border: 1.5px solid var(--other-0); }
.legend i.span { width: 1.4em; border: 0; height: 2px; }

.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.875rem; }
th { font-weight: 500; color: var(--muted); text-align: left; vertical-align: bottom; }
th, td { padding: 0.35rem 0.9rem 0.35rem 0; border-bottom: 1px solid var(--rule); }
th, td, td code { overflow-wrap: normal; }
td code { white-space: nowrap; }
tbody th { color: var(--ink); }
td.n, th.n { text-align: right; padding-right: 0; padding-left: 0.9rem; }
.members th.n, .members .missing { white-space: normal; }
th .member { display: inline-block; min-width: 11rem; }
tr.this td, tr.this th { font-weight: 600; }
.missing { color: var(--muted); font-style: italic; }

table.confusion {
  table-layout: fixed; border-collapse: separate; border-spacing: 2px; font-size: 0.8125rem;
}
table.confusion th, table.confusion td { border: 0; padding: 0.3rem 0.15rem; text-align: center; }
table.confusion tbody th { text-align: right; padding-right: 0.4rem; font-weight: 500; }
table.confusion .corner { width: 5.2rem; text-align: right; padding-right: 0.4rem; font-size: 0.75rem; }
table.confusion th { overflow-wrap: normal; }
table.confusion td {
  background: color-mix(in oklab, var(--full) calc(var(--p) * 100%), var(--panel));
  line-height: 1.2; border-radius: 2px;
}
table.confusion td.strong { color: var(--on-full); }
table.confusion td small { display: block; font-size: 0.6875rem; opacity: 0.8; }
table.confusion td.right {
  outline: 1.5px solid color-mix(in oklab, var(--ink) 45%, transparent); outline-offset: -1.5px;
}

ul.images {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: 1.1rem 0.9rem;
  margin: 0; padding: 0; list-style: none;
}
ul.images.small { grid-template-columns: repeat(auto-fill, minmax(4.5rem, 1fr)); gap: 0.5rem; }
ul.images li { break-inside: avoid; font-size: 0.8125rem; line-height: 1.35; }
ul.images img {
  display: block; width: 100%; height: auto; border-radius: 3px; background: var(--panel);
  margin-bottom: 0.35rem;
}
ul.images.small img { margin: 0; }
ul.images.broad { grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); gap: 1.4rem; }
.explained { display: grid; grid-template-columns: repeat(3, 1fr); gap: 0.4rem; margin-bottom: 0.35rem; }
ul.images .explained img { margin: 0; }
.explained figcaption { margin: 0.15rem 0 0; font-size: 0.75rem; font-weight: 400; color: var(--muted); }
.scale { white-space: nowrap; }
.scale img { width: 6rem; height: 0.7rem; vertical-align: -0.05em; border-radius: 2px; }

.stack {
  display: flex; height: 0.6rem; margin: 0.25rem 0 0.5rem; border-radius: 2px; overflow: hidden;
  gap: 1px;
}
.stack i { background: var(--colour); flex: var(--share) 0 0; min-width: 2px; }
ul.plain { margin: 0 0 0.75rem; padding-left: 1.1rem; max-width: 46rem; }
ol.ranked { margin: 0; padding: 0; list-style: none; font-size: 0.875rem; }
ol.ranked li {
  display: flex; justify-content: space-between; gap: 1rem; padding: 0.25rem 0;
  border-bottom: 1px solid var(--rule);
}
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--accent); }
pre {
  background: var(--panel); padding: 1rem; border-radius: 4px; overflow-x: auto;
  overflow-wrap: normal;
}

@media (max-width: 44rem) {
  body { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.375rem; }
  section { margin-top: 2rem; }
  .headline { grid-template-columns: 1fr; }
  .points > div > :first-child { grid-column: 1 / -1; }
  .points .track { grid-column: 1 / 3; margin-left: 1.2rem; }
  .points > div > :last-child { grid-column: 3; }
  .figure-of-merit .value { font-size: 3rem; }
  dl.facts { grid-template-columns: repeat(2, 1fr); gap: 0.8rem 1rem; }
  table.confusion { font-size: 0.6875rem; border-spacing: 1px; }
  table.confusion td small { font-size: 0.5625rem; }
  table.confusion .corner { width: 3.9rem; }
  ul.images { grid-template-columns: repeat(3, 1fr); gap: 0.9rem 0.6rem; }
  ul.images.small { grid-template-columns: repeat(4, 1fr); }
  ul.images.broad { grid-template-columns: 1fr; }
}
@media print, (max-width: 44rem) {
  table.confusion thead th:not(.corner) {
    writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  }
}
@media print {
  :root { --paper: #ffffff; }
  body {
    max-width: none; padding: 0; font-size: 9.5pt; print-color-adjust: exact;
    -webkit-print-color-adjust: exact;
  }
  nav { display: none; }
  section { margin-top: 1.25rem; break-inside: auto; }
  h2, h3, .lead, figcaption { break-after: avoid; }
  tr, .headline { break-inside: avoid; }
  .wide { overflow: visible; }
  .columns { grid-template-columns: 1fr 1fr; gap: 1.25rem 1.5rem; }
  table { font-size: 8.5pt; }
  td code { white-space: normal; }
  pre { white-space: pre-wrap; }
}
""".strip()
