-- A header of its own on each request, as tracing adds it, beside a browser's.
local number = 0
request = function()
  number = number + 1
  wrk.headers["traceparent"] = string.format("00-%032x-%016x-01", number, number)
  return wrk.format("GET", nil)
end
