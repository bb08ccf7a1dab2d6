export * from "./api.ts";
export * from "./errors.ts";
export * from "./exec.ts";
export * from "./files.ts";
export * from "./network.ts";
export * from "./runtime.ts";
export * from "./sandbox.ts";
export * from "./storage.ts";
