-- wrk: GET requests for random accounts.
-- Environment: TOKEN, ACCOUNTS (number of accounts), READ_PATH (with {account}), SUMMARY (path of summary.lua).

local accounts = tonumber(os.getenv("ACCOUNTS"))
local path = os.getenv("READ_PATH")
local headers = { ["Authorization"] = "Bearer " .. os.getenv("TOKEN") }

function init()
  math.randomseed(os.time())
end

function request()
  local id = string.format("00000000-0000-7000-8000-%012x", math.random(accounts))
  return wrk.format("GET", (path:gsub("{account}", id)), headers)
end

done = dofile(os.getenv("SUMMARY"))
