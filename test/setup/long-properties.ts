import fc from "fast-check";

// For scripts/fuzz.sh: each property that sets no number of runs of its own is tried until its time is up.
const seconds = Number(process.env.WARREN_PROPERTY_SECONDS);
fc.configureGlobal({
  numRuns: 1e9,
  interruptAfterTimeLimit: seconds * 1000,
  markInterruptAsFailure: false,
  endOnFailure: true,
});
