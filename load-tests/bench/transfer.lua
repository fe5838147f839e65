-- wrk: transfers between the benchmark's accounts, each with a new idempotency key.
-- Environment: TOKEN, ACCOUNTS (number of accounts), PAUSE_MS (mean think time of a connection; 0: none), SUMMARY
-- (path of summary.lua).

local accounts = tonumber(os.getenv("ACCOUNTS"))
local pause = tonumber(os.getenv("PAUSE_MS"))
local token = os.getenv("TOKEN")
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init()
  math.randomseed(os.time() * 1000 + number)
  headers = { ["Authorization"] = "Bearer " .. token, ["Content-Type"] = "application/json" }
end

local function account(n)
  return string.format("00000000-0000-7000-8000-%012x", n)
end

function request()
  local from = math.random(accounts)
  local to = (from - 1 + math.random(accounts - 1)) % accounts + 1
  -- Random like those of pgbench, because ordered keys are cheaper to index.
  headers["Idempotency-Key"] = string.format("%08x%08x%08x", math.random(0, 2147483647), math.random(0, 2147483647), math.random(0, 2147483647))
  local body = '{"from_account":"' .. account(from) .. '","to_account":"' .. account(to) .. '","amount":1,"currency":"USD"}'
  return wrk.format("POST", "/api/v1/transfers", headers, body)
end

if pause > 0 then
  -- Exponential think times approximate the Poisson arrivals of many independent clients.
  function delay()
    return math.floor(-pause * math.log(1 - math.random()) + 0.5)
  end
end

done = dofile(os.getenv("SUMMARY"))
