// SPDX-License-Identifier: MIT
// A person's part in test_page.py, played by Chromium:  node page.mjs SCENARIO URL [ARGUMENT…]
// It prints a line of JSON for the test to go on, reads one, and ends with {"done": true}.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const [scenario, url, ...rest] = process.argv.slice(2);
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (what) => process.stdout.write(JSON.stringify(what) + '\n');
/** Has the test do something, and waits for its line. */
const have = async (what) => {
  say(what);
  return JSON.parse((await input.next()).value);
};

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--disable-default-apps', '--disable-dev-shm-usage',
  ],
});

const problems = [];  // what no page of ours may do
const foreign = [];
async function open(path = '/', options = {}) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 900 },
    ignoreHTTPSErrors: url.startsWith('https:'), ...options });
  const tab = await context.newPage();
  tab.setDefaultTimeout(20000);
  tab.on('pageerror', (error) => problems.push(String(error)));
  tab.on('console', (message) => {
    if (/Content Security Policy/i.test(message.text())) problems.push(message.text());
  });
  tab.on('dialog', (dialog) => {
    problems.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  tab.on('request', (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith('data:')) foreign.push(request.url());
  });
  await tab.goto(url + path);
  return tab;
}

const shown = (tab, id) => tab.locator(`#${id}`).waitFor();
const text = (tab, id) => tab.locator(`#${id}`).innerText();
async function says(tab, id, pattern) {
  await tab.waitForFunction(([id, source]) => new RegExp(source, 's').test(document.getElementById(id).innerText),
    [id, pattern.source]);
}
const rows = (tab, id = 'list') => tab.locator(`#${id} li`);
async function search(tab, what) {
  await tab.fill('#query', what);
  await tab.press('#query', 'Enter');
}
const narrow = { viewport: { width: 360, height: 740 } };
async function isNoWiderThanTheScreen(tab) {
  const [is, may] = await tab.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(is <= may, `${is} px wide on a screen of ${may}`);
}

async function accessible(tab, where) {
  const axe = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
  await tab.evaluate(readFileSync(axe, 'utf8'));
  const { violations } = await tab.evaluate(() => axe.run(document, {
    runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
  }));
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(' ')}`);
  assert.deepEqual(found, [], where);
}

const scenarios = {
  async looks() {
    for (const options of [{ colorScheme: 'light' }, { colorScheme: 'dark', ...narrow }]) {
      const tab = await open('/', options);
      await says(tab, 'found', /pending tasks/);
      await tab.locator('.bar').first().waitFor();
      await tab.locator('#lateness svg').waitFor();
      await tab.locator('#sink-list li').first().waitFor();
      await accessible(tab, `overview, ${options.colorScheme}`);
      await isNoWiderThanTheScreen(tab);
      await tab.click('#schedule');
      await accessible(tab, `form, ${options.colorScheme}`);
      await isNoWiderThanTheScreen(tab);
      await tab.keyboard.press('Escape');
      await rows(tab).first().locator('a').click();
      await says(tab, 'message', /./);
      await accessible(tab, `task, ${options.colorScheme}`);
      await isNoWiderThanTheScreen(tab);
      await tab.context().close();
    }
  },

  async searches() {
    const tab = await open();
    await says(tab, 'found', /^30 pending tasks$/);
    assert.equal(await rows(tab).count(), 20, 'a page of them');
    await tab.click('#next-page');
    await tab.waitForFunction(() => document.querySelectorAll('#list li').length === 10);
    await search(tab, 'rose');
    await says(tab, 'found', /^10 of 30 pending tasks match$/);
    await says(tab, 'axis', /all tasks, most:/);
    assert.match(tab.url(), /\?q=rose$/);
    await search(tab, 'topic:house/*');
    await says(tab, 'found', /^20 of 30/);
    await tab.goBack();
    await says(tab, 'found', /^10 of 30/);
    assert.equal(await tab.inputValue('#query'), 'rose');
    await tab.reload();
    await says(tab, 'found', /^10 of 30/);
    await search(tab, rest[0]);  // the name of a task
    await says(tab, 'found', /^1 of 30/);
    await search(tab, rest[1]);  // the year of all
    await says(tab, 'found', /^30 of 30/);
    await search(tab, 'rose');
    await says(tab, 'found', /^10 of 30/);
    await tab.click('#cancel-all');
    await says(tab, 'question-title', /Cancel 10 tasks\?/);
    await tab.click('#question-no');
    await says(tab, 'found', /^10 of 30/);
    await tab.click('#cancel-all');
    await tab.click('#question-yes');
    await says(tab, 'toast', /Cancelled 10 tasks/);
    await says(tab, 'found', /^0 of 20/);
    await search(tab, rest[2]);  // an id opens the task
    await says(tab, 'task-id', new RegExp(rest[2]));
  },

  async drags() {
    const tab = await open();
    await tab.locator('.bar').first().waitFor();
    const box = await tab.locator('#bars').boundingBox();
    const drag = async (from, to) => {
      await tab.mouse.move(box.x + from * box.width, box.y + 20);
      await tab.mouse.down();
      await tab.mouse.move(box.x + to * box.width, box.y + 30, { steps: 5 });
      await tab.mouse.up();
    };
    await says(tab, 'found', /^30 pending/);
    await drag(0.001, 0.5);
    await says(tab, 'found', /^\d+ of 30 pending tasks match$/);
    const some = Number((await text(tab, 'found')).split(' ')[0]);
    assert.ok(some > 0 && some < 30, `${some} in the first half`);
    assert.match(tab.url(), /from=\d+&to=\d+/);
    await tab.click('#whole');
    await says(tab, 'found', /^30 pending/);
    for (const unit of ['60', '3600', '86400']) {
      await tab.selectOption('#unit', unit);
      await tab.waitForURL(new RegExp(`unit=${unit}`));
    }
    await tab.locator('#bars').focus();  // the same by keyboard
    await tab.keyboard.press('End');
    await tab.keyboard.press('Home');
    await tab.keyboard.press('Enter');
    await tab.waitForURL(/from=/);
  },

  async verbatim() {
    const [hostile] = rest;
    const tab = await open();
    await says(tab, 'found', /pending tasks/);
    const known = JSON.parse(readFileSync(hostile, 'utf8'));
    for (const { id, message } of known) {
      await search(tab, id);
      await says(tab, 'task-id', new RegExp(id));
      // It may be read twice; what was asked for first has the page scroll to its title.
      await tab.waitForFunction(() => document.activeElement.id === 'task-title');
      await tab.waitForFunction((length) => document.getElementById('message').textContent.length === length,
        Math.min(message.length, 20000));
      if (message.length > 20000) await tab.click('#message-all');
      const is = await tab.evaluate(() => document.getElementById('message').textContent);
      assert.ok(is === message, `${message.slice(0, 100)} is shown as ${is.slice(0, 100)}`);
      assert.equal(await tab.locator('#message *').count(), 0, 'it is text');
      await tab.click('#task-back');
      await says(tab, 'found', /pending tasks/);
    }
    assert.equal(await tab.title(), 'Task Scheduler');
    assert.equal(await tab.locator('script').count(), 1, 'the page has no other script');
    await isNoWiderThanTheScreen(tab);
  },

  async changes() {
    const tab = await open(`/?task=${rest[0]}`);
    await says(tab, 'message', /9007199254740993/);
    await tab.click('#task-edit');
    await tab.fill('#in', '2h');
    await tab.click('#editor-save');
    await says(tab, 'timeline', /in 1 h 59 min/);
    await tab.click('#task-edit');
    const body = await tab.inputValue('#body');
    assert.equal(body, '{"z":9007199254740993,"a":1.10,"a":2}');
    await tab.fill('#body', '{"z": 90071992547409931');
    await tab.click('#editor-save');
    await says(tab, 'body-error', /JSON/);
    assert.equal(await tab.getAttribute('#body', 'aria-invalid'), 'true');
    await tab.fill('#body', '{"z": 90071992547409931}');
    await tab.click('#editor-save');
    await says(tab, 'message', /^{"z":90071992547409931}$/);
    await tab.click('#copy-message');
    await says(tab, 'toast', /Copied/);
    await tab.click('#task-now');
    await tab.click('#question-yes');
    await says(tab, 'timeline', /Emitted.*late/);
    await says(tab, 'timeline', /Sink pump: (dead|waiting)/);
    assert.ok(!(await tab.locator('#task-actions').isVisible()), 'what is over cannot be changed');
    await tab.click('#task-back');
    await tab.locator('#live li').first().waitFor();

    await tab.click('#schedule');
    await tab.fill('#in', 'soon');
    await tab.fill('#topic', 'a b');
    await tab.click('#editor-save');
    await says(tab, 'topic-error', /topic/);
    await tab.fill('#topic', 'house/door');
    await tab.fill('#body', 'By hand');
    await tab.click('#editor-save');
    await says(tab, 'in-error', /delay/);
    await tab.fill('#in', '30m');
    await tab.fill('#name', 'door');
    await tab.click('#editor-save');
    await says(tab, 'toast', /Scheduled/);
    await says(tab, 'list', /door.*house\/door.*By hand/);
    await tab.click('#list a:has-text("By hand")');
    await tab.click('#task-edit');
    assert.ok(!(await tab.locator('#name').isVisible()), 'a name stays');
    await tab.fill('#topic', 'house/gate');
    await tab.click('#editor-save');
    await says(tab, 'task-facts', /pending, topic house\/gate/);
    await says(tab, 'message', /^"By hand"$/);
    await tab.click('#task-cancel');
    await tab.click('#question-yes');
    await says(tab, 'found', /^0 pending/);

    await says(tab, 'problem-list', /sink pump/);
    await tab.click('#sink-list button:has-text("Dead letters")');
    await says(tab, 'letter-list', /90071992547409931/);
    await tab.click('#letters-all');
    await says(tab, 'toast', /tried again/);
    await tab.click('#sink-list button:has-text("Pause")');
    await says(tab, 'sink-list', /paused/);
    await tab.click('#sink-list button:has-text("Resume")');
    await says(tab, 'sink-list', /active/);
    await tab.click('#pause');
    await tab.fill('#question-value', 'a <b>reason</b>');
    await tab.click('#question-yes');
    await says(tab, 'problem-list', /Paused.*a <b>reason<\/b>/);
    await tab.click('#problem-list button:has-text("Resume")');
    await tab.waitForFunction(() => !/Paused/.test(document.getElementById('problems').innerText));
  },

  async nodes() {
    const tab = await open();
    await says(tab, 'about', /task-scheduler/);
    assert.ok(await tab.locator('#nodes').isHidden(), 'one that is alone');
    const cluster = { node: 'b', role: 'follower', owner: 'a', owner_url: 'http://a.example:8080', epoch: 3,
      stored: 1204, applied: 1200, lag: 4, connected: true, problem: null, clock_ahead_ms: 2, nodes: [
        { node: 'a', url: 'http://a.example:8080', applied: 1190, seen: new Date().toISOString() },
        { node: 'b', url: null, applied: 1200, seen: null }] };
    let problems = [];
    await tab.route('**/status', async (route) => {
      const status = await (await route.fetch()).json();
      await route.fulfill({ json: { ...status, cluster, problems } });
    });
    const again = () => tab.evaluate('refresh()');
    await again();
    await says(tab, 'node-list', /^a, owner, had applied 1,190 groups, seen .*, http:\/\/a.example:8080/);
    await says(tab, 'node-list', /b, follower, this one, 4 groups behind$/);
    await accessible(tab, 'nodes');
    assert.ok(await tab.locator('#problems').isHidden());
    cluster.problem = 'the clock of this machine is 900 ms ahead of the database\'s';
    await again();
    await says(tab, 'problem-list', /^This node: the clock of this machine is 900 ms ahead/);
    cluster.owner = null;
    problems = ['No node owns the journal; nothing is emitted and changes are refused.'];
    await again();
    await says(tab, 'problem-list', /^No node owns the journal; nothing is emitted and changes are refused.$/);
  },

  async https() {
    const tab = await open();
    assert.ok(await tab.evaluate(() => isSecureContext && location.protocol === 'https:'));
    await tab.click('#schedule');
    await tab.fill('#in', '1');
    await tab.fill('#body', 'By TLS');
    await tab.click('#editor-save');
    await says(tab, 'live', /By TLS/);
    await says(tab, 'rate', /^$/);  // connected
  },

  async secret() {
    const tab = await open();
    const enter = async (value) => {
      await shown(tab, 'secret');
      await tab.fill('#secret-value', value);
      await tab.press('#secret-value', 'Enter');
    };
    await enter('wrong');
    await says(tab, 'secret-error', /not the secret/);
    await enter(rest[1]);  // which only reads
    await says(tab, 'found', /pending/);
    assert.ok(!(await tab.locator('#schedule').isVisible()), 'what it cannot do is not offered');
    assert.ok(!(await tab.locator('#pause').isVisible()));
    await tab.evaluate(() => sessionStorage.clear());
    await tab.reload();
    await enter(rest[0]);
    await says(tab, 'found', /pending/);
    assert.ok(await tab.locator('#schedule').isVisible());
    await tab.reload();  // the tab still knows it
    await says(tab, 'found', /pending/);
    assert.ok(!tab.url().includes(rest[0]), 'no address holds it');
    await have({ emit: true });
    await says(tab, 'live', /by the stream/);
  },

  async restart() {
    const tab = await open();
    await says(tab, 'problem-list', /Nobody listens/);
    await have({ listen: true });
    await tab.locator('#problems').waitFor({ state: 'hidden' });  // nothing while all is well
    await have({ stop: true });
    await says(tab, 'problem-list', /connection.*lost/);
    assert.ok(await rows(tab).count() > 0, 'what is shown stays');
    await have({ start: true });
    await tab.waitForFunction(() => !/lost/.test(document.getElementById('problems').innerText));
    await have({ emit: true });
    await says(tab, 'live', /after the restart/);
  },

  async keyboard() {
    const tab = await open();
    await says(tab, 'found', /pending task/);
    /** Tab until the element that has the focus is this one. */
    const reach = async (id) => {
      for (let i = 0; i < 60; i++) {
        await tab.keyboard.press('Tab');
        if (await tab.evaluate((id) => document.activeElement.matches(id), id)) return;
      }
      assert.fail(`${id} is not reached`);
    };
    await tab.keyboard.press('Tab');
    await tab.keyboard.press('Enter');  // skips to the tasks
    assert.equal(await tab.evaluate(() => document.activeElement.id), 'main');
    await tab.keyboard.press('Shift+Tab');
    await tab.focus('#home');
    await reach('#schedule');
    const outline = await tab.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.equal(outline, 'solid', 'the focus is seen');
    await tab.keyboard.press('Enter');
    await shown(tab, 'editor');
    assert.equal(await tab.evaluate(() => document.activeElement.id), 'in');
    await tab.keyboard.press('Control+A');
    await tab.keyboard.type('45m');
    await reach('#body');
    await tab.keyboard.type('typed');
    await reach('#editor-save');
    await tab.keyboard.press('Enter');
    await says(tab, 'list', /typed/);
    await reach('#query');
    await tab.keyboard.type('typed');
    await tab.keyboard.press('Enter');
    await says(tab, 'found', /^1 of/);
    await reach('#list a');
    await tab.keyboard.press('Enter');
    await says(tab, 'message', /typed/);
    assert.equal(await tab.evaluate(() => document.activeElement.id), 'task-title');
    await reach('#task-cancel');
    await tab.keyboard.press('Enter');
    assert.equal(await tab.evaluate(() => document.activeElement.id), 'question-no', 'the safe one');
    await tab.keyboard.press('Escape');
    await tab.keyboard.press('Enter');
    await reach('#question-yes');
    await tab.keyboard.press('Enter');
    await says(tab, 'toast', /Cancelled/);
  },

  async load() {
    const tab = await open();
    await says(tab, 'found', /100,0\d\d pending tasks/);
    await tab.evaluate(() => {
      window.slow = [];
      new PerformanceObserver((list) => window.slow.push(...list.getEntries().map((one) => one.duration)))
        .observe({ type: 'longtask' });  // what takes more than 50 ms
    });
    await have({ events: true });
    await tab.waitForFunction(() => /0\d\d|[1-9]\d\d events a second/.test(document.getElementById('rate').innerText));
    await have({ enough: true });
    const elements = await tab.evaluate(() => document.querySelectorAll('*').length);
    assert.ok(elements < 1500, `${elements} elements`);
    say({ slow: await tab.evaluate(() => window.slow), elements });
  },
};

try {
  await scenarios[scenario]();
  assert.deepEqual(problems, []);
  assert.deepEqual(foreign, []);
} catch (error) {
  say({ failed: error.stack });
}
await browser.close();
say({ done: true });
process.exit(0);
