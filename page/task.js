// SPDX-License-Identifier: MIT
// A task's own page, and the form that schedules or changes one.

const shownAtOnce = 20000;  // characters of a message
let task = null;            // what is shown, as readItem() reads it
let taskText = '';          // and as it was answered

async function loadTask() {
  const { task: id } = state();
  let text = '', error = '';
  try {
    text = await ask(`tasks/${encodeURIComponent(id)}`);
  } catch (refusal) {
    if (refusal.status === 0) return;
    error = refusal.status === 404
      ? 'It is not there any more: cancelled, or older than what is kept.' : refusal.message;
  }
  if (state().task !== id) return;
  $('task-error').hidden = !error;
  write($('task-error'), error);
  if (task?.id !== id) showMessage(null);
  if (text && text !== taskText) {
    task = readItem(text);
    showTask();
  }
  taskText = text;
  $('task-actions').hidden = !!error || task?.id !== id || task.status !== 'pending';
  write($('task-id'), id);
}

function showTask() {
  write($('task-title'), task.name ?? 'Task');
  write($('task-facts'), task.status + (task.topic ? `, topic ${task.topic}` : ''));
  if (task.message !== $('message').whole) showMessage(task);
  const step = (kind, what, time, more = '') =>
    make('li', { class: kind }, `${what} `,
      make('time', { datetime: time ?? '', title: time ?? '' }, time ? moment(time) : ''),
      make('small', {}, more));
  const pending = task.status === 'pending';
  const due = step(pending ? '' : 'done', 'Due', task.due, pending ? countdown(task.due) : '');
  if (pending) due.due = task.due;
  const steps = [step('done', 'Stored', task.stored_at), due];
  const end = task.emitted_at ? ['done', 'Emitted'] : ['wrong', 'Missed'];
  if (!pending) steps.push(step(...end, task.emitted_at ?? task.missed_at, `${late(task.late_ms)} late`));
  for (const sink of pending ? [] : task.sinks) {
    const kinds = { taken: 'done', dead: 'wrong' };
    const attempts = sink.attempts ? `${plural(sink.attempts, 'failed attempt')}. ` : '';
    const next = sink.next_attempt ? ` Next attempt: ${moment(sink.next_attempt)}.` : '';
    steps.push(step(kinds[sink.state], `Sink ${sink.name}: ${sink.state}`, null,
      attempts + (sink.error ?? '') + next));
  }
  $('timeline').replaceChildren(...steps);
}

function showMessage(of) {
  $('message').whole = of?.message;
  write($('message'), of?.message.slice(0, shownAtOnce) ?? '');
  $('message-all').hidden = !(of?.payload.length > shownAtOnce);
  write($('payload'), of?.payload.slice(0, shownAtOnce) ?? '');
}

on('message-all', 'click', () => {
  $('message-all').hidden = true;
  write($('message'), task.message);
  write($('payload'), task.payload);
});
on('copy-message', 'click', () => copy(task.message));
on('task-edit', 'click', () => edit(task));
on('task-now', 'click', async () => {
  if (await question({ title: 'Run it now?', yes: 'Run it now',
    text: 'It is emitted at once instead of at its time.' }) === null) return;
  await ask(`tasks/${task.id}`, 'PATCH', '{"delay":0}');
  toast('It is due now.');
  refresh();
});
on('task-cancel', 'click', async () => {
  if (await question({ title: 'Cancel this task?', yes: 'Cancel the task',
    text: 'It is gone for good and never emitted.' }) === null) return;
  await ask(`tasks/${task.id}`, 'DELETE');
  toast('Cancelled.');
  go({});
});

// ---- The form ----

const fields = ['at', 'in', 'body', 'name', 'topic'];
let edited = null;  // the task that is changed; null: a new one
let before = {};    // what the fields said at the beginning

const radio = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const check = (name, value) => {
  document.querySelector(`input[name=${name}][value=${value}]`).checked = true;
};

/** Opens the form, for a new task or for a change of this one. */
function edit(of) {
  edited = of;
  $('editor-form').reset();
  tellErrors([]);
  write($('editor-title'), of ? 'Move or edit' : 'Schedule a task');
  write($('editor-save'), of ? 'Save' : 'Schedule');
  $('editor-new').hidden = of && !of.name;  // by its name a task gets another topic
  $('name').parentNode.hidden = !!of;
  $('topic').value = of?.topic ?? '';
  check('when', of ? 'at' : 'in');
  $('at').value = iso(localMs(of ? of.due : serverNow() + 3600000)).slice(0, 19);
  $('in').value = of ? '' : '5m';
  const isText = !of || of.message.startsWith('"');
  check('kind', isText ? 'text' : 'json');
  $('body').value = !of ? '' : isText ? JSON.parse(of.message) : of.message;
  before = { at: $('at').value, body: $('body').value, kind: radio('kind'), topic: $('topic').value };
  $('editor').showModal();
  (of ? $('at') : $('in')).focus();
}

/** Puts each error at the field that it speaks of; there are none where the list is empty. */
function tellErrors(errors) {
  const told = { editor: [] };
  for (const error of errors) {
    const [, subject] = /"(timestamp|delay|message|topic)"/.exec(error) ?? [];
    const field = { timestamp: 'at', delay: 'in', message: 'body', topic: 'topic' }[subject] ??
        (/\bname\b/.test(error) && !edited ? 'name' : 'editor');
    (told[field] ??= []).push(error);
  }
  write($('editor-error'), told.editor.join(' '));
  for (const field of fields) {
    write($(`${field}-error`), (told[field] ?? []).join(' '));
    $(field).setAttribute('aria-invalid', !!told[field]);
  }
  const first = fields.find((field) => told[field]);
  if (first) $(first).focus();
}

/** The members that the form says, as JSON; null where it cannot say them. */
function formMembers() {
  const members = [];
  const errors = [];
  if (radio('when') === 'in') {
    const delay = $('in').value.trim();
    members.push(['delay', /^\d+(\.\d+)?$/.test(delay) ? delay : JSON.stringify(delay)]);
  } else if (!edited || $('at').value !== before.at) {
    const time = new Date($('at').value);
    if (isNaN(time)) errors.push('The "timestamp" must be a date and a time.');
    else members.push(['timestamp', `"${time.toISOString()}"`]);
  }
  const body = $('body').value;
  if (!edited || body !== before.body || radio('kind') !== before.kind) {
    const isText = radio('kind') === 'text';
    // As it was typed, as a message is shown as it was sent.
    members.push(['message', isText ? JSON.stringify(body) : body]);
    try {
      if (!isText) JSON.parse(body);
    } catch (error) {
      errors.push(`The "message" is not JSON: ${error.message}`);
    }
  }
  const topic = $('topic').value.trim();
  if (topic !== before.topic) {
    if (!/^[A-Za-z0-9._~/-]*$/.test(topic)) {
      errors.push('A "topic" is made of letters, digits and ._~/- only.');
    }
    members.push(['topic', topic && JSON.stringify(topic)]);
    // All members are replaced then: the others stay as they are.
    const said = members.map(([key]) => (key === 'delay' ? 'timestamp' : key));
    if (edited) members.push(...piecesOf(edited.payload).filter(([key]) => !said.includes(key)));
  }
  tellErrors(errors);
  const texts = members.filter(([, text]) => text).map(([key, text]) => `${JSON.stringify(key)}:${text}`);
  return errors.length ? null : `{${texts.join()}}`;
}

async function save() {
  const body = formMembers();
  if (body === null) return;
  const isWhole = $('topic').value.trim() !== before.topic;
  const name = edited ? isWhole && edited.name : $('name').value.trim();
  $('editor-save').disabled = true;
  try {
    if (name) {
      await ask(`tasks/${encodeURIComponent(name)}`, 'PUT', body, edited ? { 'if-match': '*' } : {});
    } else if (!edited) await ask('schedule', 'POST', body);
    else if (body !== '{}') await ask(`tasks/${edited.id}`, 'PATCH', body);
    toast(edited ? 'Saved.' : 'Scheduled.');
    $('editor').close();
    refresh();
  } catch (refusal) {
    tellErrors(refusal.errors ?? [refusal.message]);
  } finally {
    $('editor-save').disabled = false;
  }
}

on('editor-form', 'submit', save);
on('editor-close', 'click', () => $('editor').close());
on('schedule', 'click', () => edit(null));
for (const id of ['at', 'in']) on(id, 'input', () => check('when', id));
