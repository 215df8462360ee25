// SPDX-License-Identifier: MIT
// Events as they come, and how late they were.

const mostLive = 30;
let recent = [];       // the newest events, the newest last
let arrived = 0;       // since the rate was told last
let isStale = true;    // the history knows more of them than is shown
let isConnected = false;
let isHeld = false;

function showLive() {
  if (isHeld || document.hidden) return;
  const rows = recent.slice(-mostLive).reverse();
  arrange($('live'), rows, (item) => item.id, buildRow, updateRow);
}

/** An event of the stream.  How late it was comes from the history a moment later. */
function addLive(event) {
  arrived += 1;
  isStale = true;
  recent.push(event);
  if (recent.length > 2 * mostLive) recent = recent.slice(-mostLive);
  showLiveSoon();
}

/** What the stream said, read where it is shown: of a thousand a second few are. */
const showLiveSoon = soon(() => {
  recent = recent.slice(-mostLive).map((event) => (event.emitted_at ? event : {
    ...readItem(`{"payload":${event.payload}}`), id: event.id, emitted_at: iso(serverNow()),
  }));
  showLive();
});

async function loadLive() {
  if (!isStale || isHeld) return;
  isStale = false;
  const { data } = readPage(await ask(`events?limit=${mostLive}`));
  const known = new Set(data.map((event) => event.id));
  const last = recent.findLastIndex((event) => known.has(event.id));
  recent = [...data, ...(last < 0 ? [] : recent.slice(last + 1))];
  showLive();
}

function tellRate(seconds) {
  const rate = arrived / seconds;
  arrived = 0;
  const text = rate >= 10 ? `${number(Math.round(rate))} events a second` : '';
  write($('rate'), isConnected ? text : 'not connected');
}

on('hold', 'click', () => {
  isHeld = !isHeld;
  isStale = true;
  $('hold').setAttribute('aria-pressed', isHeld);
  showLive();
});

function startStream() {
  follow({
    onEvent: addLive,
    onGap: () => toast('Some events are missing here: the history does not hold them any more.'),
    onState(connected) {
      isStale ||= connected !== isConnected;
      isConnected = connected;
    },
  });
}

// ---- The chart of lateness ----

const high = 170, side = 66, foot = 18;
const markName = ({ what }) => ({ clock_step: 'clock step', replacement: 'new journal' }[what] ?? what);

/** The line of a percentile in two paths: what is over, and what leads to the unfinished minute. */
function pathsOf(minutes, name, x, y, now) {
  const paths = ['', ''];
  minutes.forEach((minute, index) => {
    const at = Date.parse(minute.at);
    const isOpen = at + 60000 > now;
    const previous = minutes[index - 1];
    const point = (of) => `${x(Date.parse(of.at) + 30000).toFixed(1)} ${y(of[name]).toFixed(1)}`;
    const follows = previous && at - Date.parse(previous.at) <= 60000;
    paths[Number(isOpen)] += follows ? `M${point(previous)}L${point(minute)}` : `M${point(minute)}h1`;
  });
  return paths;
}

let drawn = '';
function showLateness({ lateness, marks, now: nowText }) {
  const now = Date.parse(nowText);
  const wide = Math.max(280, $('lateness').clientWidth);
  const text = JSON.stringify([lateness, marks, wide, Math.floor(now / 20000)]);
  if (text === drawn) return;
  drawn = text;
  const first = lateness[0] ? Date.parse(lateness[0].at) : now;
  const begin = Math.max(now - 4 * 3600000, Math.min(first, now - 600000));
  const end = now + 60000;
  const minutes = lateness.filter(({ at }) => Date.parse(at) >= begin - 60000);
  const worst = Math.max(1000, ...minutes.map((minute) => minute.p99_ms));
  const decades = Math.ceil(Math.log10(worst));
  const x = (time) => side + ((time - begin) / (end - begin)) * (wide - side);
  const y = (ms) => high - foot - (Math.log10(Math.max(1, ms)) / decades) * (high - foot - 10);
  const chart = draw('svg', { viewBox: `0 0 ${wide} ${high}`, role: 'img' });
  for (let decade = 0; decade <= decades; decade++) {
    const at = y(10 ** decade);
    chart.append(draw('line', { x1: side, x2: wide, y1: at, y2: at }),
      draw('text', { x: side - 6, y: at + 4, 'text-anchor': 'end' }, late(10 ** decade)));
  }
  chart.append(draw('text', { x: side, y: high - 3 }, moment(begin).slice(0, -3)),
    draw('text', { x: wide, y: high - 3, 'text-anchor': 'end' }, 'now'));
  const shown = marks.filter(({ at }) => Date.parse(at) >= begin);
  for (const mark of shown) {
    const at = x(Date.parse(mark.at));
    chart.append(draw('line', { class: 'mark', x1: at, x2: at, y1: 4, y2: high - foot },
      draw('title', {}, `${markName(mark)} ${moment(mark.at)}`)));
  }
  for (const percentile of ['p99', 'p95', 'p50']) {
    const [closed, open] = pathsOf(minutes, `${percentile}_ms`, x, y, now);
    if (closed) chart.append(draw('path', { class: percentile, d: closed }));
    if (open) chart.append(draw('path', { class: `${percentile} open`, d: open }));
  }
  const newest = minutes.at(-1);
  const summary = newest ? `at ${moment(newest.at).slice(0, -3)}: half ≤ ${late(newest.p50_ms)}, ` +
      `95 % ≤ ${late(newest.p95_ms)}, 99 % ≤ ${late(newest.p99_ms)}` : 'no events yet';
  chart.setAttribute('aria-label', `Lateness over time, logarithmic; ${summary}`);
  $('lateness').replaceChildren(chart);
  write($('lateness-now'), summary);
  $('marks').replaceChildren(...shown.slice(-5).map((mark) => make('li', {},
    `${moment(mark.at)} ${markName(mark)}` + (mark.by_ms ? ` by ${number(mark.by_ms)} ms` : ''))));
}
