/**
 * Conformance suites for vitest: whoever writes a runtime, or another way to the API, runs these.
 */
export { type ApiSuiteOptions, testApi } from "./api.ts";
export { type OpenNetworkOptions, type OpenNetworkPlaces, testOpenNetwork } from "./api-open-network.ts";
export { type RuntimeSuiteOptions, testRuntime } from "./runtime.ts";
export type { Deviation, SuiteOptions } from "./suite.ts";
