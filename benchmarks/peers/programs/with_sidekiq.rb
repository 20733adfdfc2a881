# Sidekiq. The command `sidekiq` loads this file; otherwise it is used as the programs in Python.
require "json"
require "sidekiq"

Redis.sadd_returns_boolean = false # or each enqueue prints a warning

Sidekiq.configure_server { |config| config.logger.level = Logger::WARN }

PAYLOAD = {"text" => "x" * 289}.freeze
RUNS = File.open(ENV.fetch("RUNS"), "ab")
RUNS.sync = true

def now_ns
  Process.clock_gettime(Process::CLOCK_MONOTONIC, :nanosecond)
end

class Task
  include Sidekiq::Job

  def perform(_payload)
    RUNS.syswrite([now_ns].pack("q"))
  end
end

if $PROGRAM_NAME == __FILE__
  operation, count = ARGV[0], ARGV[1].to_i
  if operation == "latency"
    sent = (1..count + 1).map do |number|
      sleep(rand(0.02..0.15))
      began = now_ns
      Task.perform_async(PAYLOAD)
      sleep(0.01) while RUNS.size < 8 * number
      began
    end
    puts JSON.generate(sent_ns: sent)
  else
    warm_up = operation == "bulk" ? 1 : 50
    warm_up.times { Task.perform_async(PAYLOAD) }
    began = now_ns
    if operation == "bulk"
      Task.perform_bulk(Array.new(count) { [PAYLOAD] })
    else
      count.times { Task.perform_async(PAYLOAD) }
    end
    puts JSON.generate(seconds: (now_ns - began) / 1e9, jobs: warm_up + count)
  end
end
