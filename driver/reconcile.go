package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/kernel"
)

// Depth says how closely reconcile looks.
type Depth int

const (
	// Changes mends what differs in links and addresses; it runs on every hint.
	Changes Depth = iota
	// Full also ensures every setting again; it runs at start and on a timer.
	Full
)

// Actual is the kernel's state that a [Kind] compares with its own.
type Actual struct {
	// Links by name, and by index.
	Links map[string]kernel.Link
	Index map[int]kernel.Link
	// Addresses by device name.
	Addresses map[string][]kernel.Address
}

// A Report says what reconcile mended, one sentence each.
type Report struct{ Repaired []string }

// look reads the kernel's state once for all networks.
func (d *Driver) look() (Actual, error) { return Look(d.cfg.Kernel) }

// Look reads what the kernel has.
func Look(k interface {
	Links() ([]kernel.Link, error)
	Addresses() ([]kernel.Address, error)
}) (Actual, error) {
	links, err := k.Links()
	if err != nil {
		return Actual{}, err
	}
	addrs, err := k.Addresses()
	if err != nil {
		return Actual{}, err
	}
	a := Actual{Links: map[string]kernel.Link{}, Index: map[int]kernel.Link{}, Addresses: map[string][]kernel.Address{}}
	for _, l := range links {
		a.Links[l.Name], a.Index[l.Index] = l, l
	}
	for _, addr := range addrs {
		name := a.Index[addr.Link].Name
		a.Addresses[name] = append(a.Addresses[name], addr)
	}
	return a, nil
}

// Reconcile makes the kernel be what the journal says: it mends networks and
// endpoints, deletes links of weft's that belong to nothing, and in full depth
// repairs the firewall. It goes on after errors and returns all of them.
func (d *Driver) Reconcile(ctx context.Context, depth Depth) (Report, error) {
	var report Report
	moved, astray, errs := d.followAll(ctx)
	report.Repaired = moved
	actual, err := d.look()
	if err != nil {
		return report, err
	}
	if d.cfg.OnLook != nil {
		d.cfg.OnLook(actual)
	}
	for _, n := range d.Networks() {
		repaired, err := d.reconcileNetwork(ctx, actual, n.ID, depth)
		report.Repaired = append(report.Repaired, repaired...)
		errs = append(errs, err)
	}
	errs = append(errs, d.forwardAll(ctx, depth))
	if d.cfg.Blind == nil || !d.cfg.Blind() {
		swept, err := d.sweep(actual)
		report.Repaired = append(report.Repaired, swept...)
		errs = append(errs, err)
	}
	d.noteTroubles(actual, astray)
	errs = append(errs, d.updateUplinks(ctx, actual))
	if depth == Full { // changes of rules have hints of their own
		repaired, err := d.cfg.Firewall.Mend(ctx)
		report.Repaired = append(report.Repaired, repaired...)
		errs = append(errs, err)
	}
	err = errors.Join(errs...)
	d.count(report, err)
	for _, r := range report.Repaired {
		d.log.Info("repaired", "what", r)
	}
	return report, err
}

// MendFirewall mends the firewall alone.
func (d *Driver) MendFirewall(ctx context.Context) (Report, error) {
	repaired, err := d.cfg.Firewall.Mend(ctx)
	report := Report{Repaired: repaired}
	d.count(report, err)
	for _, r := range repaired {
		d.log.Info("repaired", "what", r)
	}
	return report, err
}

func (d *Driver) count(r Report, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.Runs++
	d.stats.Repairs += uint64(len(r.Repaired))
	d.stats.LastError = ""
	if err != nil {
		d.stats.LastError = err.Error()
	}
}

func (d *Driver) reconcileNetwork(ctx context.Context, actual Actual, id string, depth Depth) ([]string, error) {
	n, kind, err := d.network(id)
	if err != nil {
		return nil, nil // removed since the list was made
	}
	eps := d.joined(id)
	problems := kind.Check(actual, n, eps)
	if len(problems) == 0 && depth != Full {
		return nil, nil
	}
	defer d.locks.Lock(networkKey(id))()
	if n, kind, err = d.network(id); err != nil {
		return nil, nil // removed while we waited
	}
	if err := d.ensure(ctx, kind, n); err != nil {
		return problems, fmt.Errorf("reconcile network %s: %w", short(id), err)
	}
	return problems, nil
}

// ensure makes the kernel have a network and its endpoints. It needs the network's lock.
func (d *Driver) ensure(ctx context.Context, kind Kind, n Network) error {
	errs := []error{kind.EnsureNetwork(ctx, n)}
	for _, ep := range d.joined(n.ID) {
		errs = append(errs, kind.EnsureEndpoint(ctx, n, ep))
	}
	return errors.Join(errs...)
}

func (d *Driver) joined(network string) []Endpoint {
	return slices.DeleteFunc(d.Endpoints(network), func(ep Endpoint) bool { return !ep.Joined })
}

// FirewallFacts is everything the firewall should know, from the journal.
func (d *Driver) FirewallFacts() firewall.Facts {
	var all firewall.Facts
	for _, n := range d.Networks() {
		kind := d.cfg.Kinds[n.Mode]
		if kind == nil {
			continue
		}
		f := kind.Facts(n, d.joined(n.ID))
		all.Networks = append(all.Networks, f.Networks...)
		all.Ports = append(all.Ports, f.Ports...)
		all.Open = append(all.Open, f.Open...)
	}
	if actual, err := d.look(); err == nil {
		if routes, err := d.cfg.Kernel.Routes(); err == nil {
			all.Uplinks = Uplinks(actual, routes)
		}
	}
	return all
}

// Prefixes of the names of all links that weft makes on its own account.
const (
	PrefixBridge = "wf-" // bridges, followed by 12 characters of the network's id
	PrefixHost   = "wv-" // host ends of veth pairs
	PrefixPeer   = "wp-" // their peers, before the engine moves them
	PrefixAccess = "wh-" // the host's own devices on lines of containers
)

// Ours says whether a link is one that weft made: by its group, which is part
// of the message that makes it and survives renames and moves.
func Ours(l kernel.Link) bool { return l.Group == kernel.Group || l.Group == kernel.DoomedGroup }

// strays are the links of weft's that belong to no network and no endpoint. The
// names are taken after the kernel was read: a link that is being made has its
// endpoint in the map already.
func (d *Driver) strays(actual Actual) []kernel.Link {
	known := map[string]bool{}
	d.mu.Lock()
	if d.creating != nil {
		for _, name := range d.creating.Devices() {
			known[name] = true
		}
	}
	for _, n := range d.networks {
		for _, name := range n.Devices() {
			known[name] = true
		}
		if l, ok := actual.Renamed(n); ok {
			known[l.Name] = true
		}
	}
	for _, ep := range d.endpoints {
		known[ep.HostLink], known[ep.PeerLink] = true, true
	}
	d.mu.Unlock()
	var out []kernel.Link
	for name, l := range actual.Links {
		if Ours(l) && !known[name] && actual.Lent(l) == "" {
			out = append(out, l)
		}
	}
	return out
}

// doomed says whether a link is on its way out already, by itself or because
// the other end of its pair is.
func doomed(a Actual, l kernel.Link) bool {
	if l.Group == kernel.DoomedGroup {
		return true
	}
	id, isPeer := strings.CutPrefix(l.Name, PrefixPeer)
	return isPeer && a.Links[PrefixHost+id].Group == kernel.DoomedGroup
}

// sweep deletes strays and says so, but for those that an endpoint's removal,
// begun since the kernel was read, is taking away itself.
func (d *Driver) sweep(actual Actual) ([]string, error) {
	var above, below []kernel.Link
	for _, l := range d.strays(actual) {
		if Bears(l) {
			below = append(below, l)
		} else {
			above = append(above, l)
		}
	}
	swept, err := d.sweepAway(above)
	more, alsoErr := d.sweepAway(below) // which show only now who else is on them
	return append(swept, more...), errors.Join(err, alsoErr)
}

func (d *Driver) sweepAway(strays []kernel.Link) ([]string, error) {
	if len(strays) == 0 {
		return nil, nil
	}
	now, err := d.look()
	if err != nil {
		return nil, err
	}
	var swept []string
	var errs []error
	for _, l := range strays {
		l, ok := now.Links[l.Name]
		switch {
		case !ok || doomed(now, l) || now.Lent(l) != "" || Held(d.cfg.Kernel, now, l):
			continue
		case l.Kind == "bridge":
			errs = append(errs, d.cfg.Kernel.DeleteLink(l.Name))
		default:
			errs = append(errs, d.cfg.Kernel.Detach(l.Name))
		}
		swept = append(swept, fmt.Sprintf("link %s belonged to nothing and was deleted", l.Name))
	}
	return swept, errors.Join(append(errs, d.cfg.Kernel.DeleteDoomed())...)
}

// Reset takes away everything that weft made, whatever the journal says:
// networks, endpoints, then every link that bears weft's mark. Errors are
// collected.
func (d *Driver) Reset(ctx context.Context) error {
	var errs []error
	for _, n := range d.Networks() {
		errs = append(errs, d.DropNetwork(ctx, n.ID))
	}
	errs = append(errs, d.resetAbsent(ctx))
	actual, err := d.look()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	_, err = d.sweep(actual)
	return errors.Join(append(errs, err)...)
}
