#!lua flags=no-writes,allow-oom
-- Whether the user may write to the queue. Asks the server, which notes no refusal in its ACL LOG.
-- keys: counters control
-- args:
-- returns: 1 or 0

for _, command in ipairs({'HSET', 'DEL', 'HINCRBY', 'SET', 'UNLINK'}) do
  for _, key in ipairs(KEYS) do
    local operands = command == 'HSET' and {'f', 'v'} or command == 'HINCRBY' and {'f', '1'} or {'v'}
    if redis.acl_check_cmd(command, key, unpack(operands)) then
      return 1
    end
  end
end
return 0
