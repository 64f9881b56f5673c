package main

import (
	"context"
	"time"

	"cairnproxy.dev/cairn/conformance/hbone"
)

// The metrics of fairness: what a download does to the small requests of
// others.
var (
	quietP50  = metric{name: "p50 quiet", unit: "µs", format: "%.0f"}
	quietP99  = metric{name: "p99 quiet", unit: "µs", format: "%.0f", better: less}
	besideP50 = metric{name: "p50 beside bulk", unit: "µs", format: "%.0f"}
	besideP99 = metric{name: "p99 beside bulk", unit: "µs", format: "%.0f", better: less}
	slowdown  = metric{name: "p99 beside bulk / quiet", format: "%.2f"}
	bulkRate  = metric{name: "bulk, MB per second", format: "%.0f"}
)

// fairWindow bounds what the download has under way: with the 4 MiB of a node
// proxy the load's core is full, and the load's own queue is what is measured.
const fairWindow = 128 << 10

// fairCase measures small GETs on 8 tunnels of one connection, first alone and
// then beside one more tunnel that downloads without a pause: on the same
// connection, or on one of its own. Latencies are those of the proxy: what load
// and sink took is left out, since a download keeps them as busy as the proxy.
func fairCase(name string, same bool, long span) benchCase {
	c := benchCase{
		name: name, title: "1,000 requests per second on 8 tunnels of a connection, alone and beside a download on the same connection",
		metrics: []metric{
			quietP50, quietP99, besideP50, besideP99,
			slowdown.below(2),
			bulkRate, busy, loadBusy, waited, loadWaited,
		},
		lasts: long(14*time.Second, 6*time.Second),
		run:   func(ctx context.Context, t *trial) error { return t.fair(ctx, same, long) },
	}
	if !same {
		c.title = "1,000 requests per second on 8 tunnels of a connection, alone and beside a download on another connection"
	}
	return c
}

func (t *trial) fair(ctx context.Context, same bool, long span) error {
	o := t.options(1, 8)
	o.ProxyTime, o.BulkSize, o.Window = true, large, fairWindow
	t.lab.sink.Stamped.Store(true)
	defer t.lab.sink.Stamped.Store(false)
	other := o
	if same {
		o.Bulk = 1
	}
	load, err := hbone.Dial(ctx, o)
	if err != nil {
		return err
	}
	defer load.Close()
	bulk := load
	if !same {
		other.Streams, other.Bulk = 0, 1
		if bulk, err = hbone.Dial(ctx, other); err != nil {
			return err
		}
		defer bulk.Close()
	}
	if err := t.pacedWindow(ctx, load, long); err != nil {
		return err
	}
	t.values[quietP50.name], t.values[quietP99.name] = t.values[p50.name], t.values[p99.name]
	bulk.Bulk(true)
	begin := time.Now()
	err = t.pacedWindow(ctx, load, long)
	bodies := bulk.Bulk(false)
	if err != nil {
		return err
	}
	t.values[bulkRate.name] = float64(bodies) * large / 1e6 / time.Since(begin).Seconds()
	t.values[besideP50.name], t.values[besideP99.name] = t.values[p50.name], t.values[p99.name]
	t.values[slowdown.name] = t.values[besideP99.name] / t.values[quietP99.name]
	return nil
}

func (t *trial) pacedWindow(ctx context.Context, load *hbone.Load, long span) error {
	w := window{trial: t, paced: true}
	r, err := load.Open(ctx, 1000, long(time.Second, 500*time.Millisecond), long(5*time.Second, 2*time.Second), w.mark)
	if err != nil {
		return err
	}
	return w.judge(r)
}
