// Run by phases/health-probe.ts: asks for the server's health every 5 ms and tells how long each answer took.
import { Agent, get } from "node:http";

const agent = new Agent({ keepAlive: true });
const samples = [];
let going = true;

const health = () =>
  new Promise((resolve, reject) => {
    get(`${process.argv[2]}/api/v1/health`, { agent }, (response) => {
      response.resume();
      response.on("end", resolve);
    }).on("error", reject);
  });

process.on("message", () => {
  going = false;
});

await health();
process.send("begun");
while (going) {
  const start = performance.now();
  await health();
  samples.push(performance.now() - start);
  await new Promise((resolve) => setTimeout(resolve, 5));
}
process.send(samples);
