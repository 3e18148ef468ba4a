"""How the pages look: one style sheet for screen, phone, dark mode and paper, and one script.

One accent colour per shot band, the same in every chart and table; told apart in the common forms
of colour blindness and at least 3:1 against the ground in both modes.
"""

from __future__ import annotations

STYLE = """
:root{--ground:#fbfaf8;--panel:#f3f1ec;--ink:#1d1f22;--soft:#5a5e66;--rule:#dcd8cf;
--grid:#e6e2d9;--all:#33373d;--many:#1f6fb2;--medium:#b07400;--few:#b23a78;--good:#1d7a4f;
--bad:#b3362b;--mark:#7a6fd0;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--ground:#15171a;--panel:#1e2125;--ink:#e9e7e2;
--soft:#a4a8b0;--rule:#343840;--grid:#2a2e34;--all:#d6d8dc;--many:#6db3ee;--medium:#e2ab45;
--few:#e884b5;--good:#63c796;--bad:#f08a7f;--mark:#a79ff0}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);overflow-wrap:anywhere;
font:16px/1.6 -apple-system,BlinkMacSystemFont,"Segoe UI",Inter,Roboto,"Helvetica Neue",
"Liberation Sans",Arial,sans-serif;font-variant-numeric:tabular-nums}
main,.top,footer{max-width:75rem;margin:0 auto;padding:0 2.5rem}
.top{padding-top:4.5rem;padding-bottom:1rem}
.over{margin:0 0 1.6rem;color:var(--soft);font-size:.82rem;letter-spacing:.04em}
h1{font-weight:300;font-size:clamp(1.9rem,4.6vw,3.3rem);line-height:1.14;letter-spacing:-.02em;
margin:0 0 1.6rem;max-width:22em;text-wrap:balance}
h1 b{font-weight:600}
.lead{font-size:1.13rem;line-height:1.62;max-width:42em;margin:0 0 1rem}
h2{font-size:1.18rem;font-weight:600;line-height:1.3;margin:0 0 .7rem;letter-spacing:-.005em}
h3{font-size:.9rem;font-weight:600;margin:0 0 .5rem}
p{margin:0 0 .9rem}
a{color:inherit;text-underline-offset:.2em;text-decoration-color:var(--soft)}
code,pre{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace;
font-size:.84rem}
pre{background:var(--panel);padding:1rem 1.1rem;border-radius:6px;margin:0 0 1.2rem;
white-space:pre-wrap}
nav{border-top:1px solid var(--rule);margin-top:2.6rem;padding-top:1rem;font-size:.86rem}
nav a{color:var(--soft);text-decoration:none;margin-right:1.3rem;display:inline-block;
padding:.15rem 0}
nav a:hover,nav a:focus-visible{color:var(--ink);text-decoration:underline}
section{display:grid;grid-template-columns:17rem minmax(0,1fr);gap:1rem 3.5rem;
border-top:1px solid var(--rule);padding:3rem 0 3.4rem}
.say{font-size:.92rem;line-height:1.58;color:var(--soft)}
.say h2{color:var(--ink)}
.say strong{color:var(--ink);font-weight:600}
.body>*+*{margin-top:2rem}
.tiles{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:1.5rem;margin:2.6rem 0 0}
.tile{border-top:3px solid var(--c,var(--all));padding-top:.75rem}
.tile b{display:block;font-size:2.1rem;font-weight:300;line-height:1.15;letter-spacing:-.02em}
.tile span{display:block;font-size:.84rem;color:var(--soft);line-height:1.45}
.tile .what{color:var(--ink);font-weight:600;font-size:.9rem}
.means{margin:2.6rem 0 0;padding:0;list-style:none;max-width:46em}
.means li{padding:.62rem 0;border-top:1px solid var(--rule)}
.all{--c:var(--all)}.many{--c:var(--many)}.medium{--c:var(--medium)}.few{--c:var(--few)}
.mark{--c:var(--mark)}.good-line{--c:var(--good)}.bad-line{--c:var(--bad)}.good{color:var(--good)}.bad{color:var(--bad)}.none,.soft{color:var(--soft)}
.key::before{content:"";display:inline-block;width:.62em;height:.62em;border-radius:50%;
background:var(--c);margin-right:.45em}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.4rem;font-size:.84rem;color:var(--soft);
margin:0 0 .9rem}
figure{margin:0}
figcaption{font-size:.84rem;color:var(--soft);margin-top:.7rem;max-width:46em}
.plot{--h:20rem}
.plot.small{--h:9rem}
.plot .frame{position:relative;height:var(--h);margin:0 .6rem 1.9rem 3.1rem}
.plot svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible;display:block}
.plot svg *{vector-effect:non-scaling-stroke}
.plot .x,.plot .y,.plot .note{position:absolute;font-size:.75rem;line-height:1;
color:var(--soft);white-space:nowrap}
.plot .x{top:100%;margin-top:.5rem;transform:translateX(-50%)}
.plot .y{right:100%;margin-right:.55rem;transform:translateY(50%)}
.plot .note{color:var(--ink);padding:.15rem .5rem}
.plot .note.left{transform:translateX(-100%)}
.axis{font-size:.78rem;color:var(--soft)}
.plot>.axis.up{margin:0 0 .55rem}
.plot>.axis.across{text-align:right;margin:-.35rem .6rem 0 0}
.grid{stroke:var(--grid);stroke-width:1;fill:none}
.base{stroke:var(--rule);stroke-width:1;fill:none}
.dot{stroke:var(--c);stroke-width:7px;stroke-linecap:round;stroke-opacity:.62;fill:none}
.dot.big{stroke-width:11px;stroke-opacity:1}
.dot:hover{stroke-opacity:1}
.line{stroke:var(--c);stroke-width:1.8;fill:none;stroke-linejoin:round;stroke-linecap:round}
.thin{stroke-width:1.2;stroke-opacity:.55}
.dash{stroke-dasharray:5 4}
.fill{fill:var(--c);fill-opacity:.2;stroke:none}
.solid{fill:var(--c);fill-opacity:.85;stroke:none}
.bands{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:2.2rem 3rem}
.rule{display:grid;grid-template-columns:5.6rem minmax(0,1fr) 4.1rem;gap:.7rem;
align-items:center;font-size:.86rem;line-height:1.9}
.rule .n{text-align:right}
.rule.default{font-weight:600}
.track{position:relative;height:1.1rem;background:linear-gradient(var(--grid),var(--grid))
0 50%/100% 1px no-repeat}
.track i{position:absolute;top:50%;height:12px;margin-top:-6px;border-radius:2px;
min-width:2px;background:var(--c);opacity:.3}
.track u{position:absolute;top:50%;width:3px;height:16px;margin:-8px 0 0 -1.5px;
border-radius:1.5px;background:var(--c)}
.rule.default .track i{opacity:.5}
.track b{position:absolute;top:-.3rem;bottom:-.3rem;width:1px;background:var(--soft);opacity:.6}
.rule.run{grid-template-columns:8rem minmax(0,1fr) 3.2rem;line-height:1.3;padding:.3rem 0}
.rule.run small{display:block;color:var(--soft);font-size:.75rem}
.scale{font-size:.75rem;color:var(--soft);line-height:1.2}
.scale .ends{display:flex;justify-content:space-between}
.scroll{overflow-x:auto;max-width:100%}
.scroll:focus-visible{outline:2px solid var(--many);outline-offset:3px}
table{border-collapse:collapse;width:100%;font-size:.86rem;line-height:1.45}
caption{text-align:left;font-size:.84rem;color:var(--soft);padding:0 0 .6rem}
th,td{overflow-wrap:break-word;text-align:left;vertical-align:top;padding:.5rem 1rem .5rem 0;
border-bottom:1px solid var(--rule);font-weight:400;min-width:3.4rem}
thead th{color:var(--soft);font-size:.78rem;vertical-align:bottom;border-bottom-color:var(--soft)}
tbody th{min-width:6.5rem}
.wide td{min-width:8.5rem}.wide td:nth-child(2){min-width:5.6rem}
.n{text-align:right;white-space:nowrap;padding-right:.4rem;padding-left:.8rem}
tr.default th,tr.default td{font-weight:600}
.pair{display:grid;grid-template-columns:minmax(0,1fr) 1.6rem minmax(0,1fr);gap:.4rem 1.2rem;
padding:1.3rem 0;border-top:1px solid var(--rule)}
.pair:first-child{border-top:0;padding-top:0}
.pair .count{grid-column:1/-1;font-size:.86rem;color:var(--soft)}
.pair .arrow{color:var(--soft);text-align:center;padding-top:.1rem}
.pair h3{margin-bottom:.1rem}
.pair small,td small,th small{display:block;color:var(--soft);font-size:.78rem}
.shots{display:flex;flex-wrap:wrap;gap:6px;margin-top:.55rem}
.shot{display:block;width:64px;height:64px;object-fit:cover;border-radius:3px;
background:var(--panel);outline:1px solid var(--rule);outline-offset:-1px}
.shot.crisp{image-rendering:pixelated}
.near{display:flex;gap:.7rem;align-items:flex-start;min-width:9.5rem}
.near .shot{width:44px;height:44px}
.near .shots{margin-top:.1rem;flex:none}
td .key{white-space:nowrap}
.plot.map{--h:32rem}
.plot.map .frame{margin:0;background:var(--panel);border-radius:6px}
.map .dot{stroke-width:8px;stroke-opacity:.8}
.hole{stroke:var(--panel);stroke-width:5px;stroke-linecap:round;fill:none;pointer-events:none}
.multiples{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:2.2rem 1.6rem}
.multiples h3 small{display:block;font-weight:400;color:var(--soft);font-size:.78rem}
dl{display:grid;grid-template-columns:11rem minmax(0,1fr);gap:.45rem 1.4rem;margin:0;
font-size:.88rem}
dt{color:var(--soft)}dd{margin:0}
details summary{cursor:pointer;font-size:.9rem;padding:.3rem 0}
details[open] summary{margin-bottom:.9rem}
footer{border-top:1px solid var(--rule);padding-top:1.4rem;padding-bottom:4rem;
font-size:.82rem;color:var(--soft);max-width:70rem}
#tip{position:fixed;z-index:9;max-width:17rem;padding:.42rem .65rem;border-radius:4px;
background:var(--ink);color:var(--ground);font-size:.8rem;line-height:1.4;pointer-events:none;
white-space:pre-line}
@media(max-width:900px){section{grid-template-columns:minmax(0,1fr);gap:1.4rem;
padding:2.4rem 0 2.6rem}.say{max-width:42em}
.multiples{grid-template-columns:repeat(2,minmax(0,1fr))}}
@media(max-width:600px){main,.top,footer{padding-left:1.25rem;padding-right:1.25rem}
.top{padding-top:2.4rem}.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}
.bands,.multiples{grid-template-columns:minmax(0,1fr)}.plot{--h:15rem}
.x.minor{display:none}dl{grid-template-columns:minmax(0,1fr);gap:.1rem}dd{margin-bottom:.7rem}
.plot.map{--h:24rem}.map .dot{stroke-width:6.5px}.hole{stroke-width:3.6px}
.pair{gap:.4rem .6rem}.shot{width:52px;height:52px}.pair .shot:nth-child(n+5){display:none}
table{font-size:.82rem}tbody th{min-width:4.4rem}.n{padding-left:.3rem;min-width:0}
td small{font-size:.7rem}}
@media print{:root{--ground:#fff;--panel:#f4f4f4;--ink:#000;--soft:#444;--rule:#bbb;--grid:#ddd;
--all:#222;--many:#1f6fb2;--medium:#b07400;--few:#b23a78}
body{font-size:10.5pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}
main,.top,footer{max-width:none;padding-left:0;padding-right:0}
.top{padding-top:0}nav,#tip{display:none}
section{grid-template-columns:minmax(0,1fr);gap:.8rem;padding:1.4rem 0}
.say,figure,.pair,tr,.tile{break-inside:avoid}h2,.say,caption,thead{break-after:avoid}
.shot{width:46px;height:46px}.scroll{overflow:visible}
.plot{--h:15rem}}
"""

# Hover and tap show an element's <title> at once, without the browser's delay. Without scripts the
# browser shows the same titles itself.
SCRIPT = """
(function(){var tip=document.createElement('div');tip.id='tip';tip.hidden=true;
document.body.appendChild(tip);var svgs=document.querySelectorAll('svg');
function show(event){var mark=event.target.closest?event.target.closest('[data-tip],svg *'):null;
var title=mark&&mark.querySelector?mark.querySelector(':scope > title'):null;
if(title){mark.setAttribute('data-tip',title.textContent);mark.removeChild(title)}
var text=mark?mark.getAttribute('data-tip'):null;if(!text){tip.hidden=true;return}
tip.textContent=text;tip.hidden=false;
var x=Math.min(event.clientX+14,innerWidth-tip.offsetWidth-8),y=event.clientY+18;
if(y+tip.offsetHeight>innerHeight-8)y=event.clientY-tip.offsetHeight-12;
tip.style.left=Math.max(8,x)+'px';tip.style.top=y+'px'}
for(var i=0;i<svgs.length;i++)svgs[i].addEventListener('pointermove',show),
svgs[i].addEventListener('pointerdown',show),
svgs[i].addEventListener('pointerleave',function(){tip.hidden=true});
addEventListener('scroll',function(){tip.hidden=true},{passive:true})})();
"""
