package parented

import (
	"context"
	"fmt"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/accord"
	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/directory"
)

// agree makes a network one of the cluster, if its addresses are the cluster's: hosts on
// one line that give them each by itself would give them twice. A network without a
// parent is on no line.
func (k *Kind) agree(ctx context.Context, n driver.Network) (driver.Network, error) {
	domain, why := k.common(n)
	if why != nil {
		if name := n.Options[accord.OptName]; name != "" {
			return n, fmt.Errorf("%w: %s=%q: the network cannot be one of the cluster: %w", driver.ErrOption, accord.OptName, name, why)
		}
		k.log.Info("a network is this host's alone", "network", short(n.ID), "why", why)
		return n, nil
	}
	want := k.record(n, domain)
	want.UUID = cluster.NewID()
	record, err := accord.Reach(ctx, k.cfg.Directory, accord.Terms{Network: want, Fit: func(have directory.Network) (directory.Network, error) {
		// Where the links go is each host's own affair.
		for _, key := range []string{OptParent, OptVLAN} {
			delete(want.Options, key)
			if v, ok := have.Options[key]; ok {
				want.Options[key] = v
			}
		}
		return want, nil
	}})
	if err != nil {
		return n, err
	}
	n.Shared = &driver.Shared{UUID: record.UUID, Domain: accord.Domain(record)}
	return n, nil
}

// common is the domain of a network's addresses, or why it is not the cluster's.
func (k *Kind) common(n driver.Network) (domain string, why error) {
	switch {
	case k.cfg.Directory == nil:
		return "", fmt.Errorf("this host shares no store with others: set WEFT_STORE")
	case n.Parent == "":
		return "", fmt.Errorf("it has no -o %s", OptParent)
	case len(n.Subnets()) == 0:
		return "", fmt.Errorf("it has no subnet")
	}
	for _, s := range n.Subnets() {
		if domain, why = k.cfg.Shared(n.ID, s.Pool); why != nil {
			return "", why
		}
	}
	return domain, nil
}

// record is what the cluster should know of a network. Two that are created at once are
// one if it is the same.
func (k *Kind) record(n driver.Network, domain string) directory.Network {
	mode, flag := k.sort.Style(n.Options)
	common := map[string]string{n.Mode + "_mode": mode, n.Mode + "_flag": flag, OptParent: n.Options[OptParent], OptVLAN: n.Options[OptVLAN]}
	return directory.Network{Name: n.Options[accord.OptName], Mode: n.Mode, Subnets: accord.Pools(n), Options: accord.Common(n, domain, common)}
}

// Attend takes part in a network of an earlier process.
func (k *Kind) Attend(n driver.Network) {
	if n.Mode == string(k.sort.Kind) {
		k.attend(n)
	}
}

func (k *Kind) attend(n driver.Network) {
	if n.Shared == nil || k.cfg.Directory == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.attended[n.Shared.UUID] {
		k.attended[n.Shared.UUID] = true
		r := k.record(n, n.Shared.Domain)
		r.UUID = n.Shared.UUID
		k.cfg.Directory.Attend(r)
	}
}

func (k *Kind) forsake(n driver.Network) {
	if n.Shared == nil || k.cfg.Directory == nil {
		return
	}
	k.mu.Lock()
	delete(k.attended, n.Shared.UUID)
	k.mu.Unlock()
	k.cfg.Directory.Forsake(n.Shared.UUID)
}

// Rebind makes this host take part in another network of the cluster, with devices and
// addresses as they are.
func (k *Kind) Rebind(_ context.Context, old, n driver.Network, eps []driver.Endpoint) error {
	k.attend(n)
	for _, ep := range eps {
		k.publish(n, ep)
	}
	k.forsake(old)
	return nil
}

// publish lets the other hosts know of an endpoint; of one that is off the network they
// have a better one.
func (k *Kind) publish(n driver.Network, ep driver.Endpoint) {
	if n.Shared == nil || k.cfg.Directory == nil {
		return
	}
	if ep.Off {
		k.cfg.Directory.Withdraw(n.Shared.UUID, ep.ID)
		return
	}
	e := directory.Endpoint{ID: ep.ID, MAC: ep.MAC}
	for _, p := range ep.Addrs() {
		e.Addrs = append(e.Addrs, p.Addr())
	}
	k.cfg.Directory.Publish(n.Shared.UUID, e)
}

func (k *Kind) withdraw(n driver.Network, ep driver.Endpoint) {
	if n.Shared != nil && k.cfg.Directory != nil {
		k.cfg.Directory.Withdraw(n.Shared.UUID, ep.ID)
	}
}
