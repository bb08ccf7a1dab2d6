// A stand-in for OrbStack's command: a file keeps the state of its machines, and what is to run in one runs here. Its first
// argument is that file, an OrbState (orb.ts). What it is asked is kept in `<file>.log`, one JSON array a line.
import { spawn } from "node:child_process";
import { appendFileSync, readFileSync, renameSync, writeFileSync } from "node:fs";

const [, , file, ...args] = process.argv;
const state = JSON.parse(readFileSync(file, "utf8"));
const save = () => {
  writeFileSync(`${file}.${process.pid}`, JSON.stringify(state));
  renameSync(`${file}.${process.pid}`, file);
};
appendFileSync(`${file}.log`, `${JSON.stringify(args)}\n`);

const fail = (words) => {
  process.stderr.write(`${words}\n`);
  process.exit(1);
};
const find = (name) => state.machines.find((machine) => machine.name === name);

for (const [words, complaint] of Object.entries(state.fail ?? {})) {
  if (args.join(" ").startsWith(words)) fail(complaint);
}

if (args[0] === "status") {
  process.stdout.write(`${state.running ? "Running" : (state.says ?? "Stopped")}\n`);
} else if (args[0] === "start" && args.length === 1) {
  state.running = !state.staysDown;
  save();
} else if (!state.running) {
  fail("OrbStack is not running");
} else if (args[0] === "list") {
  process.stdout.write(
    `${JSON.stringify(state.machines.map((machine) => ({ id: "1", ...machine, builtin: false })))}\n`,
  );
} else if (args[0] === "create") {
  const [, , name] = args;
  if (find(name)) fail(`machine already exists: ${name}`);
  state.machines.push({ name, state: "running" });
  save();
} else if (args[0] === "start") {
  const machine = find(args[1]);
  if (!machine) fail(`machine not found: ${args[1]}`);
  machine.state = "running";
  save();
} else if (args[0] === "-m") {
  const [, name, ...rest] = args;
  const command = rest[0] === "-u" ? rest.slice(2) : rest;
  if (find(name)?.state !== "running") fail(`machine not running: ${name}`);
  const answer = (state.answers ?? []).find(
    (one) => one.words.every((word) => command.includes(word)) && one.times !== 0,
  );
  if (answer) {
    if (answer.times !== undefined) {
      answer.times--;
      save();
    }
    process.stdout.write(answer.stdout ?? "");
    process.stderr.write(answer.stderr ?? "");
    process.exitCode = answer.code ?? 0;
  } else {
    const env = { ...process.env, ...state.env };
    const child = spawn(command[0], command.slice(1), { stdio: "inherit", env });
    for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(signal, () => child.kill(signal));
    child.on("error", (error) => fail(error.message));
    child.on("exit", (code) => process.exit(code ?? 1));
  }
} else {
  fail(`unknown command ${args[0]}`);
}
