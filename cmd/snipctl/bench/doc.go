// Package bench generates load against a cluster and measures what comes back.
//
// A load runs closed (each worker begins the next job when its last one is
// done) or open (jobs begin at given times, whether or not earlier ones are
// done). In an open loop every latency counts from the moment the job was due,
// not from the moment a worker was free: otherwise a server that stops for a
// second would be measured by the few requests that waited for it, and not by
// the many that would have come meanwhile ("coordinated omission"). For the same
// reason jobs that were due and never started, because no worker came free before
// the end, are counted, and are in the latencies with the time they had waited.
//
// Every load is bounded in time and in count, and a canceled context ends it.
// What is written is a pure function of the run's seed, so verification makes
// the expected documents again instead of keeping them.
package bench
