import type { Random } from "./random.ts";
import type { Actions, Box, World } from "./world.ts";

const MIB = 1024 ** 2;
const main = ["sh", "-c", 'i=0; while :; do echo "line $i x"; i=$((i+1)); sleep 0.05; done'];

/** What one client does to one sandbox until the engine is gone: anything that makes sense next. */
export async function keepBusy(world: World, actions: Actions, name: string, random: Random): Promise<void> {
  for (let turn = 0; ; turn++) {
    const box = world.boxes.get(name)?.[0];
    try {
      await random.pick(choices(box, actions, name, random))();
    } catch (error) {
      if ((error as { code?: string }).code === "engine_unavailable") return;
      throw new Error(`${name}, turn ${turn}`, { cause: error });
    }
  }
}

function choices(
  box: Box | undefined,
  actions: Actions,
  name: string,
  random: Random,
): (() => Promise<unknown>)[] {
  if (!box)
    return [() => actions.create(name, { memory: 64 * MIB, ...(random.below(2) ? { cmd: main } : {}) })];
  const always = [() => actions.remove(name), () => actions.limit(name, (64 + random.below(64)) * MIB)];
  if (box.status === "paused") return [...always, () => actions.resume(name), () => actions.stop(name)];
  if (box.status !== "running") return [...always, () => actions.start(name)];
  const write = () =>
    actions.write(
      name,
      `/data/${random.below(4)}`,
      String(random.below(1e9)).repeat(1 + random.below(20_000)),
    );
  const exec = () => actions.api.exec(name, { cmd: ["sh", "-c", "sleep 0.02; echo done"], timeout: 20 });
  return [...always, write, write, write, exec, exec, () => actions.stop(name), () => actions.pause(name)];
}
