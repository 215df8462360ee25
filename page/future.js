// SPDX-License-Identifier: MIT
// What is to come: the picture of it, the search, and the list.

// ---- The state of the page, which is its address ----

/** q, show, from, to, after, unit and task, as far as they are set. */
const state = () => Object.fromEntries(new URLSearchParams(location.search));

function addressOf(changes) {
  const next = { ...state(), task: '', after: '', ...changes };
  if (next.show === 'pending') next.show = '';
  return `?${queryOf(next)}`;
}

function go(changes) {
  history.pushState(null, '', addressOf(changes));
  return render();
}

const iso = (ms) => new Date(ms).toISOString();

/** The span that a text such as 2026-12-24 18 means by the local clock, or null. */
function spanOf(text) {
  const found = /^(\d{4})-(\d\d)(?:-(\d\d)(?:[T ](\d\d)(?::(\d\d))?)?)?$/.exec(text);
  if (!found) return null;
  const parts = found.slice(1).filter(Boolean).map(Number);
  parts[1] -= 1;
  const end = [...parts];
  end[end.length - 1] += 1;
  const at = (values) => new Date(values[0], values[1], values[2] ?? 1, values[3] ?? 0, values[4] ?? 0);
  return isNaN(at(parts)) ? null : [at(parts).getTime(), at(end).getTime()];
}

/** What the search chooses, as the server's parameters. */
function filter() {
  const { q = '', from, to } = state();
  const topic = [];
  const text = q.replace(/(?:^|\s)topic:(\S+)/g, (_, one) => (topic.push(one), '')).trim();
  const spans = [spanOf(text), from && to && [Number(from), Number(to)]].filter(Boolean);
  const chosen = { topic, q: spanOf(text) ? '' : text };
  if (spans.length === 0) return chosen;
  // The server's bounds do not belong to the span; a bar's begin does.
  chosen.due_after = iso(Math.max(...spans.map(([begin]) => begin)) - 1);
  chosen.due_before = iso(Math.min(...spans.map(([, end]) => end)));
  return chosen;
}

// ---- The list ----

const pageSize = 20;
let listed = null;  // what was asked for last

/** A row of a list: when, how long, and what. */
function buildRow(item) {
  return make('li', {}, make('a', { href: addressOf({ task: item.id }) },
    make('time'), make('span', { class: 'left' }), make('span', { class: 'what' })));
}

function updateRow(row, item) {
  const [time, left, what] = row.firstChild.children;
  const text = item.payload + item.due + item.late_ms;
  if (row.shown === text) return;
  row.shown = text;
  row.due = !item.emitted_at && item.late_ms === undefined && item.due;
  time.dateTime = item.emitted_at ?? item.due;
  time.title = time.dateTime;
  write(time, moment(time.dateTime));
  const lateness = item.late_ms === undefined ? '' : `${late(item.late_ms)} late`;
  write(left, row.due ? countdown(row.due) : lateness);
  left.classList.toggle('bad', item.late_ms > 1000);
  what.replaceChildren(
    item.name ? make('b', {}, item.name) : '',
    item.topic ? make('span', { class: 'topic text' }, item.topic) : '',
    make('span', { class: 'text' }, preview(item.message)));
}

async function loadList() {
  const { show = 'pending', after } = state();
  const chosen = filter();
  const isEmitted = show === 'emitted';
  const query = queryOf({
    limit: pageSize, topic: chosen.topic, q: chosen.q,
    ...(isEmitted ? { before: after } : {
      after, due_after: chosen.due_after, due_before: chosen.due_before,
      status: show === 'missed' ? show : '',
    }),
  });
  const asked = (listed = `${isEmitted ? 'events' : 'tasks'}?${query}`);
  let page = { info: {}, data: [] }, error = '';
  try {
    page = readPage(await ask(asked));
  } catch (refusal) {
    if (refusal.status === 0) return;  // told on top; what is shown stays
    error = refusal.message;
  }
  if (asked !== listed) return;  // another search has begun meanwhile
  if (isEmitted) page.data.reverse();
  arrange($('list'), page.data, (item) => item.id, buildRow, updateRow);
  showFound(show, page, error);
}

function showFound(show, { info, data }, error) {
  $('list-error').hidden = !error;
  write($('list-error'), error);
  write($('list-title'), { emitted: 'Emitted', missed: 'Missed' }[show] ?? 'Next');
  const total = info.total_count ?? 0, matching = info.matching_count ?? -1;
  const isChosen = queryOf(filter()) !== '';
  const all = show === 'pending' ? plural(total, 'pending task') : `${number(total)} kept`;
  const some = matching >= 0 ? `${number(matching)} of ${all} match` : `${data.length} shown`;
  write($('found'), error ? '' : isChosen ? some : all);
  const most = matching >= 0 ? number(matching) : 'that match';
  write($('cancel-all'), `Cancel all ${most}…`);
  $('cancel-all').hidden = show !== 'pending' || !isChosen || matching === 0 || !!error;
  const { after } = state();
  const end = show === 'emitted' ? (data.length === pageSize ? info.start_cursor : null) : info.end_cursor;
  $('next-page').hidden = !end;
  $('next-page').next = end;
  $('first-page').hidden = !after;
}

on('next-page', 'click', () => go({ after: $('next-page').next }));
on('first-page', 'click', () => go({}));

on('cancel-all', 'click', async () => {
  // Counted again: it says what is there at this moment.
  const query = queryOf(filter());
  const { page_info: info } = await askJson(`tasks?limit=1&${query}`);
  const count = info.matching_count;
  const those = count === null ? 'all that match' : plural(count, 'task');
  const answer = await question({
    title: `Cancel ${those}?`, yes: `Cancel ${those}`,
    text: `They are gone for good, ${those} of ${number(info.total_count)} pending.`,
  });
  if (answer === null) return;
  const { cancelled } = await askJson(`tasks?${query}`, 'DELETE');
  toast(`Cancelled ${plural(cancelled, 'task')}.`);
  refresh();
});

on('search', 'submit', () => {
  const q = $('query').value.trim();
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(q)) return go({ q: '', task: q.toLowerCase() });
  return go({ q, show: $('which').value });
});
on('which', 'change', () => go({ show: $('which').value }));

// ---- The picture ----

const units = [1, 60, 3600, 86400];
let bars = { from: 0, span: 1, counts: [] };
let chosenBars = null;  // [first, last] while they are being chosen
let barAt = 0;          // of the arrow keys

/** The begin of the minute, hour or day by the local clock. */
function floorTo(unit, ms) {
  const date = new Date(ms);
  if (unit === 86400) return date.setHours(0, 0, 0, 0);
  return ms - (localMs(ms) % (unit * 1000));
}

async function loadBars() {
  const { from, to, unit: asked } = state();
  let begin = Number(from) || serverNow(), end = Number(to);
  if (!end) {
    const whole = await askJson('histogram?buckets=1');
    if (!from && whole.counts[0] > 0) begin = Math.min(begin, Date.parse(whole.from));
    end = Math.max(Date.parse(whole.to) || 0, begin + 600000);
  }
  const fits = (unit) => (end - begin) / (unit * 1000) <= 120;
  const unit = Number(asked) || units.find(fits) || 86400;
  begin = floorTo(unit, begin);
  const count = Math.min(Math.ceil((end - begin) / (unit * 1000)) || 1, unit < 86400 ? 168 : 368);
  const query = queryOf({
    due_after: iso(begin), due_before: iso(begin + count * unit * 1000), buckets: count,
  });
  const { counts } = await askJson(`histogram?${query}`);
  bars = { from: begin, span: unit * 1000, counts };
  showBars();
}

function barText(first, last) {
  const count = bars.counts.slice(first, last + 1).reduce((sum, one) => sum + one, 0);
  const at = (index) => moment(bars.from + index * bars.span);
  return `${at(first)} to ${at(last + 1)}: ${plural(count, 'task')}`;
}

function showBars() {
  const most = Math.max(...bars.counts);
  const build = (index) => make('div', { class: 'bar', role: 'option', id: `bar-${index}` }, make('i'));
  arrange($('bars'), bars.counts.map((_, index) => index), (index) => index, build, (bar, index) => {
    const count = bars.counts[index];
    // Few are seen beside many: a bar is at least a few pixels high.
    bar.firstChild.style.height = count ? `max(4px, ${(100 * count) / most}%)` : '0';
    bar.title = barText(index, index);
    bar.setAttribute('aria-label', bar.title);
    const [first, last] = chosenBars ?? [1, 0];
    bar.setAttribute('aria-selected', index >= first && index <= last);
    bar.classList.toggle('at', index === barAt);
  });
  const end = bars.from + bars.counts.length * bars.span;
  $('axis').replaceChildren(
    make('span', {}, moment(bars.from)),
    make('span', {}, `${state().q ? 'all tasks, ' : ''}most: ${number(most)}`),
    make('span', {}, moment(end)));
  $('whole').hidden = !state().from;
}

function choose(first, last) {
  chosenBars = [Math.min(first, last), Math.max(first, last)];
  showBars();
}

/** Shows just the time that was chosen. */
function zoom() {
  if (!chosenBars) return;
  const [first, last] = chosenBars;
  chosenBars = null;
  barAt = 0;
  const at = (index) => bars.from + index * bars.span;
  go({ from: at(first), to: at(last + 1), unit: '', show: '' });
}

function barUnder(event) {
  const box = $('bars').getBoundingClientRect();
  const share = (event.clientX - box.left) / box.width;
  return Math.max(0, Math.min(bars.counts.length - 1, Math.floor(share * bars.counts.length)));
}

let dragFrom = null;
on('bars', 'pointerdown', (event) => {
  if (event.button !== 0) return;
  $('bars').setPointerCapture(event.pointerId);
  dragFrom = barUnder(event);
  choose(dragFrom, dragFrom);
});
on('bars', 'pointermove', (event) => {
  if (dragFrom !== null) choose(dragFrom, barUnder(event));
});
on('bars', 'pointerup', () => {
  if (dragFrom === null) return;
  dragFrom = null;
  zoom();
});
on('bars', 'pointercancel', () => {
  dragFrom = chosenBars = null;
  showBars();
});
on('bars', 'keydown', (event) => {
  const last = bars.counts.length - 1;
  const to = { ArrowLeft: barAt - 1, ArrowRight: barAt + 1, Home: 0, End: last }[event.key];
  if (event.key === 'Enter' && chosenBars) return zoom();
  if (event.key === 'Escape') chosenBars = null;
  if (to === undefined) return event.key === 'Escape' && showBars();
  event.preventDefault();
  const [first, end] = chosenBars ?? [to, to];
  const fixed = first === barAt ? end : first;  // the side that Shift leaves where it is
  barAt = Math.max(0, Math.min(last, to));
  choose(event.shiftKey ? fixed : barAt, barAt);
  $('bars').setAttribute('aria-activedescendant', `bar-${barAt}`);
});
on('unit', 'change', () => go({ unit: $('unit').value }));
on('whole', 'click', () => go({ from: '', to: '', unit: '' }));
