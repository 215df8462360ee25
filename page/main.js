// SPDX-License-Identifier: MIT
// Shows what the address says, and keeps it up to date.

const interval = 2000;
let counted = '';      // what the list and the picture were last read at
let lastStatus = null;
let readAt = 0;

/** Shows the state that the address says. */
async function render() {
  const { q = '', show = 'pending', unit = '', task: id } = state();
  $('task').hidden = !id;
  $('overview').hidden = !!id;
  $('task-back').href = addressOf({});
  $('query').value = q;
  $('which').value = show;
  $('unit').value = unit;
  $('future').hidden = show !== 'pending';
  counted = '';
  if (!id) return trying(load);
  await trying(loadTask);
  $('task-title').focus();
}

/** Reads the list and the picture, or the task. */
async function load() {
  readAt = Date.now();
  if (state().task) return loadTask();
  const shown = state().show ?? 'pending';
  await Promise.all([loadList(), shown === 'pending' && loadBars()]);
}

async function readStatus() {
  try {
    lastStatus = await askJson('status');
    connectionProblem = null;
    showStatus(lastStatus);
  } catch (refusal) {
    connectionProblem = refusal.status === 0
      ? 'The connection to the server is lost; it is tried again.' : refusal.message;
  }
  showProblems(lastStatus);
}

/** After a change of one's own: all of it anew. */
function refresh() {
  counted = '';
  return update();
}

/** Reads how the server stands, and the rest where that has changed. */
async function update() {
  await readStatus();
  if (connectionProblem) return;
  const { scheduled, cancelled, emitted, missed, pending, started_at: start } = lastStatus;
  const now = [scheduled, cancelled, emitted, missed, pending, start].join();
  // Changes in place move no counter.
  if (now !== counted || Date.now() - readAt > 5 * interval || state().task) {
    counted = now;
    await load();
  }
  if (!state().task) await loadLive();
}

async function keepUpToDate() {
  for (;; await pause(interval)) {
    if (document.hidden) continue;
    await update().catch(() => { /* told by the next one, if it lasts */ });
    tellRate(interval / 1000);
  }
}

/** Countdowns go on by themselves. */
function tick() {
  if (document.hidden) return;
  const next = $('count-next');
  if (next.due) write(next, countdown(next.due));
  for (const row of $('list').children) {
    if (row.due) write(row.firstChild.children[1], countdown(row.due));
  }
  for (const step of $('timeline').children) {
    if (step.due) write(step.lastChild, countdown(step.due));
  }
}

addEventListener('popstate', render);
addEventListener('visibilitychange', () => document.hidden || refresh());
// A link within the page changes its address, and only what is shown.
document.addEventListener('click', (event) => {
  const link = event.target.closest?.('a[href^="?"]');
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.pushState(null, '', link.getAttribute('href'));
  render();
});

setInterval(tick, 1000);
startStream();
keepUpToDate();
render();
