-- wrk: print the summary as one line of JSON; latencies in µs.
return function(summary, latency)
  io.write(string.format(
    '{"requests":%d,"microseconds":%d,"not_2xx":%d,"failed":%d,"p50":%d,"p99":%d}\n',
    summary.requests, summary.duration, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
