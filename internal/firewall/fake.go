package firewall

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Fake is a firewall without a kernel: it takes the same calls as NFT, refuses
// the same facts, and shows what it would have put in force. The zero Fake is
// ready to use.
type Fake struct {
	mu     sync.Mutex
	ledger *ledger
	hints  []chan struct{}
	// broken is what Break left for Repair and Mend to report.
	broken []string
	fail   error
	// policies counts the calls of DropByDefault by family (false: IPv4).
	policies map[bool]int
	// policy is what these calls return.
	policy error
}

// Fail makes every following call that can fail return this error, until Fail(nil).
func (f *Fake) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

// Break plays somebody else who damages the firewall: watchers get a hint, and
// the next Repair or Mend reports what was broken.
func (f *Fake) Break(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = append(f.broken, what)
	for _, h := range f.hints {
		hint(h)
	}
}

// Dump returns every element in force, sorted, one a line; nothing without a
// network.
func (f *Fake) Dump() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, es := range elements(f.book().facts()) {
		for _, e := range es {
			lines = append(lines, e.String()+"\n")
		}
	}
	for _, s := range f.book().shortcuts {
		lines = append(lines, s.lines()...)
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func (f *Fake) book() *ledger {
	if f.ledger == nil {
		f.ledger = newLedger()
	}
	return f.ledger
}

// do plans and books a step, unless the fake is to fail.
func (f *Fake) do(ctx context.Context, doing string, plan func(*ledger) (*step, error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.fail
	if err == nil {
		err = ctx.Err()
	}
	var s *step
	if err == nil {
		s, err = plan(f.book())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	s.commit()
	return nil
}

// AddNetwork is that of NFT.
func (f *Fake) AddNetwork(ctx context.Context, n Network) error {
	return f.do(ctx, "add network", func(l *ledger) (*step, error) { return l.addNetwork(n) })
}

// RemoveNetwork is that of NFT.
func (f *Fake) RemoveNetwork(ctx context.Context, id string) error {
	return f.do(ctx, "remove network "+id, func(l *ledger) (*step, error) { return l.removeNetwork(id), nil })
}

// AddPorts is that of NFT.
func (f *Fake) AddPorts(ctx context.Context, ports []Port, open []Open) error {
	return f.do(ctx, "add ports", func(l *ledger) (*step, error) { return l.addPorts(ports, open) })
}

// RemovePorts is that of NFT.
func (f *Fake) RemovePorts(ctx context.Context, endpoint string) error {
	return f.do(ctx, "remove ports of endpoint "+endpoint, func(l *ledger) (*step, error) { return l.removePorts(endpoint), nil })
}

// SetUplinks is that of NFT.
func (f *Fake) SetUplinks(ctx context.Context, names []string) error {
	return f.do(ctx, "set uplinks", func(l *ledger) (*step, error) { return l.setUplinks(names) })
}

// DropByDefault counts that somebody asked for it.
func (f *Fake) DropByDefault(ctx context.Context, v6 bool) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.policies == nil {
		f.policies = map[bool]int{}
	}
	f.policies[v6]++
	if err := cmp.Or(ctx.Err(), f.fail, f.policy); err != nil {
		return false, fmt.Errorf("policy: %w", err)
	}
	return true, nil
}

// FailPolicy makes every following DropByDefault return this error, until FailPolicy(nil).
func (f *Fake) FailPolicy(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.policy = err
}

// Policies is how often DropByDefault was asked for a family.
func (f *Fake) Policies(v6 bool) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.policies[v6]
}

// SetShortcuts is that of NFT.
func (f *Fake) SetShortcuts(ctx context.Context, set Shortcuts) error {
	return f.do(ctx, "set short cuts of network "+set.Network, func(l *ledger) (*step, error) {
		set, err := l.setShortcuts(set)
		if err != nil {
			return nil, err
		}
		s := l.step()
		s.apply = func() { l.book(set) }
		return s, nil
	})
}

// Repair is that of NFT; it reports what Break broke and which facts differ.
func (f *Fake) Repair(ctx context.Context, facts Facts) ([]string, error) {
	before := f.Dump()
	err := f.do(ctx, "repair", func(*ledger) (*step, error) {
		l, err := ledgerOf(facts)
		if err != nil {
			return nil, err
		}
		l.inherit(f.book())
		f.ledger = l
		return l.step(), nil
	})
	if err != nil {
		return nil, err
	}
	repaired := f.mended()
	if f.Dump() != before {
		repaired = append(repaired, "facts")
	}
	return repaired, nil
}

// Mend is that of NFT; it reports what Break broke.
func (f *Fake) Mend(ctx context.Context) ([]string, error) {
	if err := f.do(ctx, "mend", func(l *ledger) (*step, error) { return l.step(), nil }); err != nil {
		return nil, err
	}
	return f.mended(), nil
}

func (f *Fake) mended() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	repaired := f.broken
	f.broken = nil
	return repaired
}

// Watch is that of NFT; Break makes the hints.
func (f *Fake) Watch(ctx context.Context) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := make(chan struct{}, 1)
	f.hints = append(f.hints, h)
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.hints = slices.DeleteFunc(f.hints, func(c chan struct{}) bool { return c == h })
		close(h)
	})
	return h
}

// Reset is that of NFT.
func (f *Fake) Reset(ctx context.Context) error {
	return f.do(ctx, "reset", func(*ledger) (*step, error) {
		f.ledger, f.broken = newLedger(), nil
		return f.ledger.step(), nil
	})
}

// Status is that of NFT; packets have nothing to pass.
func (f *Fake) Status(context.Context) Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := statusOf(f.book(), len(f.book().networks) > 0)
	s.Tunnels = tunnels{loaded: f.book().tunnel > 0}.state()
	s.Shortcuts = f.book().shortcutState(nil)
	return s
}

// Close does nothing.
func (f *Fake) Close() error { return nil }
