// SPDX-License-Identifier: MIT
//
// What tests/bench/cluster measures of pg-boss, on the database that PGHOST and the like name:
//
//     node pgboss.mjs schedule SECONDS      jobs a second, one a call, 64 calls under way
//     node pgboss.mjs lateness RATE SECONDS from the moment that a job is due to its handler
//     node pgboss.mjs burst COUNT           so many due at one instant, in jobs a second
//
// It runs in the folder into which npm has installed pg-boss.  Workers look as often as they may,
// and take a thousand jobs at once.
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const here = createRequire(pathToFileURL(process.cwd() + '/x.js'))
const { PgBoss } = await import(pathToFileURL(here.resolve('pg-boss')))

const [kind, ...numbers] = process.argv.slice(2)
const [first, second] = numbers.map(Number)
const { PGHOST: host, PGPORT: port, PGUSER: user, PGDATABASE: database } = process.env
const boss = new PgBoss({ host, port: Number(port), user, database, max: 64, supervise: false,
  schedule: false, schema: `pgboss_${kind}` })  // so that none has the jobs of another
boss.on('error', console.error)
await boss.start()
const queue = kind
await boss.createQueue(queue)
const message = { n: '00000000', text: 'short message' }
const sleep = ms => new Promise(done => setTimeout(done, ms))

function quantile (values, share) {
  values.sort((a, b) => a - b)
  return values[Math.min(values.length - 1, Math.floor(share * values.length))]
}

async function schedule (seconds) {
  const startAfter = new Date(Date.now() + 48 * 3600 * 1000)
  const began = performance.now()
  const taken = []
  const run = async () => {
    while (performance.now() - began < seconds * 1000) {
      const sent = performance.now()
      await boss.send(queue, message, { startAfter })
      taken.push(performance.now() - sent)
    }
  }
  await Promise.all(Array.from({ length: 64 }, run))
  const rate = taken.length / (performance.now() - began) * 1000
  return { rate, p50_ms: quantile(taken, 0.5), p99_ms: quantile(taken, 0.99) }
}

// Calls back with each job and the moment at which its handler has it.
const work = (workers, take) => boss.work(queue,
  { batchSize: 1000, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true,
    localConcurrency: workers },
  async jobs => { const now = Date.now(); for (const job of jobs) take(job.data, now) })

async function lateness (rate, seconds) {
  const late = []
  await work(1, (data, now) => late.push(now - data.due))
  // A hundred at once, which costs it less than one by one; each is due two seconds later.
  const began = Date.now()
  const all = rate * seconds
  for (let n = 0; n < all; n += 100) {
    const wait = began + n * 1000 / rate - Date.now()
    if (wait > 0) await sleep(wait)
    await boss.insert(queue, Array.from({ length: 100 }, (_, i) => {
      const due = began + 2000 + Math.floor((n + i) * 1000 / rate)
      return { data: { ...message, due }, startAfter: new Date(due) }
    }))
  }
  const attained = all / (Date.now() - began) * 1000
  for (let i = 0; i < 300 && late.length < all; ++i) await sleep(100)
  return { attained, count: late.length, p50_ms: quantile(late, 0.5),
    p99_ms: quantile(late, 0.99), max_ms: Math.max(...late.slice(-1)) }
}

async function burst (count) {
  const due = Date.now() + 3000 + count / 10
  for (let n = 0; n < count; n += 1000) {
    await boss.insert(queue, Array.from({ length: Math.min(1000, count - n) },
      () => ({ data: message, startAfter: new Date(due) })))
  }
  await boss.getDb().executeSql('ANALYZE')  // as autovacuum does a little later
  if (Date.now() > due) throw new Error('the jobs could not be scheduled in time')
  let taken = 0
  let last = 0
  await work(4, (data, now) => { ++taken; last = now })
  for (let i = 0; i < 1200 && taken < count; ++i) await sleep(100)
  return { count: taken, rate: taken / (last - due) * 1000 }
}

const run = { schedule, lateness, burst }[kind]
console.log(JSON.stringify(await run(first, second)))
await boss.stop({ graceful: false })
process.exit(0)
