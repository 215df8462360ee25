// SPDX-License-Identifier: MIT
// What is wrong, the counts, pauses, and the sinks.

let connectionProblem = null;

/** All that is wrong, as {kind, text, button, act}; nothing while all is well. */
function problemsOf(status) {
  const problems = [];
  const add = (kind, text, button, act) => problems.push({ kind, text, button, act });
  if (connectionProblem) add('connection', connectionProblem);
  if (!status) return problems;
  if (status.paused) {
    const reason = status.paused.reason ? `: ${status.paused.reason}` : '.';
    add('paused', `Paused since ${moment(status.paused.since)}${reason}`, 'Resume',
      () => ask('resume', 'POST'));
  }
  // What /readyz says: the journal, the clock, and what is overdue.
  for (const text of status.problems) add(text.slice(0, 10), text);
  const { journal: { damaged_lines: damaged }, cluster } = status;
  if (cluster?.owner && cluster.connected && cluster.problem) add('node', `This node: ${cluster.problem}.`);
  if (damaged) add('damage', `${plural(damaged, 'damaged line')} of the journal lie in a file beside it.`);
  for (const sink of status.sinks) {
    const wrong = [sink.state === 'disabled' && 'is disabled', sink.attempts > 0 && 'fails',
      sink.lag > 1000 && `is ${plural(sink.lag, 'event')} behind`,
      sink.dead > 0 && `holds ${plural(sink.dead, 'dead letter')}`].filter(Boolean);
    if (wrong.length === 0) continue;
    const why = sink.last_error ? `: ${sink.last_error}` : '.';
    add(`sink ${sink.name}`, `The sink ${sink.name} ${wrong.join(', ')}${why}`);
  }
  const soon = status.next_due && Date.parse(status.next_due) - serverNow() < 3600000;
  const listeners = status.streams.open - (isConnected ? 1 : 0);
  const takers = status.sinks.filter((sink) => sink.state !== 'unlisted');
  if (soon && listeners < 1 && takers.length === 0) {
    add('nobody', 'Nobody listens: there is no sink, and no stream but this page’s, for what is due soon.');
  }
  return problems;
}

/** A button that does something which changes things. */
const doButton = (text, fn) => make('button', { class: 'writes', onclick: () => trying(async () => {
  await fn();
  refresh();
}) }, text);

let told = '';
function showProblems(status) {
  const problems = problemsOf(status);
  $('problems').hidden = problems.length === 0;
  const build = ({ button, act }) =>
    make('li', {}, make('span'), button ? doButton(button, act) : '');
  arrange($('problem-list'), problems, ({ kind }) => kind, build,
    (row, { text }) => write(row.firstChild, text));
  // Spoken when something begins or ends to be wrong, not whenever a number changes.
  const kinds = problems.map(({ kind }) => kind).join();
  if (kinds === told) return;
  told = kinds;
  write($('announce'), problems.map(({ text }) => text).join(' ') || 'Nothing is wrong any more.');
}

function showStatus(status) {
  clockOffset = Date.parse(status.now) - Date.now();
  document.body.classList.toggle('reads-only', status.access === 'read');
  write($('count-pending'), number(status.pending));
  write($('count-emitted'), number(status.emitted));
  write($('count-missed'), number(status.missed_kept));
  $('count-next').due = status.next_due;
  write($('count-next'), status.next_due ? countdown(status.next_due) : 'none');
  $('pause').hidden = !!status.paused;
  write($('about'), `task-scheduler ${status.version}, up for ${lasting(status.uptime_s * 1000)}, ` +
      `journal ${status.journal.file ?? 'none: memory only'}`);
  showLateness(status);
  showSinks(status.sinks);
  $('nodes').hidden = !status.cluster;
  if (status.cluster) showNodes(status.cluster);
}

/** Those that keep the same tasks, as they were heard of last. */
function showNodes({ node: own, owner, lag, nodes }) {
  arrange($('node-list'), nodes, ({ node }) => node, () => make('li'),
    (row, { node, applied, seen, url }) => write(row, [
      node, node === owner ? 'owner' : 'follower',
      node === own ? `this one, ${plural(lag, 'group')} behind` : `had applied ${plural(applied, 'group')}`,
      seen && `seen ${moment(seen)}`, url].filter(Boolean).join(', ')));
}

on('pause', 'click', async () => {
  const reason = await question({ title: 'Pause everything?', yes: 'Pause', reason: true,
    text: 'Nothing is emitted until it is resumed, also after a restart. Tasks are still taken.' });
  if (reason === null) return;
  await ask('pause', 'POST', JSON.stringify(reason ? { reason } : {}));
  refresh();
});

// ---- Sinks ----

const pathOf = (sink) => `sinks/${encodeURIComponent(sink)}`;

function showSinks(sinks) {
  $('sinks').hidden = sinks.length === 0;
  const build = ({ name }) => make('li', {}, make('b', {}, name), ' ', make('span'),
    make('p', { class: 'hint' }), make('div', { class: 'actions' },
      doButton('Pause', () => ask(`${pathOf(name)}/pause`, 'POST')),
      doButton('Resume', () => ask(`${pathOf(name)}/resume`, 'POST')),
      make('button', { onclick: () => trying(() => showLetters(name)) }, 'Dead letters…')));
  arrange($('sink-list'), sinks, ({ name }) => name, build, (row, sink) => {
    const [, state, facts, actions] = row.children;
    write(state, `${sink.state}, ${sink.kind} ${sink.target}`);
    const next = sink.next_attempt ? ` Next attempt: ${moment(sink.next_attempt)}.` : '';
    const error = sink.last_error ? ` Last error: ${sink.last_error}.` : '';
    write(facts, `${plural(sink.lag, 'event')} behind, ${number(sink.delivered)} delivered, ` +
        `${plural(sink.dead, 'dead letter')}.${error}${next}`);
    const [pauses, resumes, letters] = actions.children;
    pauses.hidden = sink.state !== 'active';
    resumes.hidden = sink.state !== 'paused' && sink.state !== 'disabled';
    letters.hidden = sink.dead === 0;
  });
}

async function showLetters(sink) {
  const { info, data } = readPage(await ask(`${pathOf(sink)}/dead?limit=100`));
  const again = (body) => trying(async () => {
    const { redelivering } = await askJson(`${pathOf(sink)}/redeliver`, 'POST', body);
    toast(`${plural(redelivering, 'dead letter')} tried again.`);
    $('letters').close();
    refresh();
  });
  write($('letters-title'), `Dead letters of ${sink}: ${number(info.total_count)}`);
  $('letter-list').replaceChildren(...data.map((letter) => make('li', {},
    make('div', { class: 'text' }, preview(letter.message)),
    make('p', { class: 'hint' }, `Given up ${moment(letter.given_up_at)} after ` +
        `${plural(letter.attempts, 'attempt')}: ${letter.error}`),
    make('button', { class: 'writes',
      onclick: () => again(JSON.stringify({ id: letter.id })) }, 'Deliver again'))));
  $('letters-all').onclick = () => again(undefined);
  if (!$('letters').open) $('letters').showModal();
}
on('letters-close', 'click', () => $('letters').close());
