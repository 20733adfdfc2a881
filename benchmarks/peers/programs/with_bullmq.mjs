// BullMQ. As a worker: `node with_bullmq.mjs worker`; otherwise as the programs in Python.
import fs from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const { Queue, Worker } = createRequire(`${process.env.NODE_MODULES}/`)("bullmq");
const url = new URL(process.env.REDIS_URL);
const connection = { host: url.hostname, port: Number(url.port) };
const payload = { text: "x".repeat(289) };
const runs = fs.openSync(process.env.RUNS, "a");
const now = () => process.hrtime.bigint();
const [operation, count] = [process.argv[2], Number(process.argv[3])];

if (operation === "worker") {
  const worker = new Worker(
    "peer",
    async () => {
      const run = Buffer.alloc(8);
      run.writeBigInt64LE(now());
      fs.writeSync(runs, run);
    },
    { connection, concurrency: 100 },
  );
  process.once("SIGTERM", () => worker.close().then(() => process.exit()));
} else {
  const queue = new Queue("peer", { connection });
  const enqueue = () => queue.add("task", payload);
  const many = () =>
    queue.addBulk(Array.from({ length: count }, () => ({ name: "task", data: payload })));
  const result = {};
  if (operation === "one") {
    await enqueue();
  } else if (operation === "latency") {
    const sent = [];
    for (let number = 1; number <= count + 1; number += 1) {
      await sleep(20 + Math.random() * 130);
      sent.push(Number(now()));
      await enqueue();
      while (fs.fstatSync(runs).size < 8 * number) await sleep(10);
    }
    result.sent_ns = sent;
  } else {
    const warmUp = operation === "bulk" ? 1 : 50;
    for (let number = 0; number < warmUp; number += 1) await enqueue();
    const began = now();
    if (operation === "bulk") await many();
    else for (let number = 0; number < count; number += 1) await enqueue();
    result.seconds = Number(now() - began) / 1e9;
    result.jobs = warmUp + count;
  }
  console.log(JSON.stringify(result));
  await queue.close();
}
