// Package driver is the domain of weft: networks, endpoints, what was promised
// to the engine, and how the kernel is kept in step with it.
//
// A [Driver] takes decoded requests, keeps the journal, and lets a [Kind]
// (bridge, overlay, …) do what its sort of network needs:
//
//	d, err := driver.New(driver.Config{Journal: j, Kinds: map[string]driver.Kind{"bridge": bridge.New(…)}})
//	err = d.Restore(ctx)       // take up what the journal says
//	report, err := d.Reconcile(ctx, driver.Full)
//
// Order of every change: the kernel first, then the journal, then the answer.
// A crash in between leaves only kernel state that nobody was promised, and
// [Driver.Reconcile] takes that away. Teardown never stops at the first error
// and succeeds for what is unknown, because the engine may ask twice, for
// things that never were, or not at all.
//
// What it does not do: it never calls the engine from a handler, it hands out
// no addresses (see package ipam), and it does not interpret wire bodies (see
// package plugin; wire.go is the bridge between both).
package driver
