package firewall

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"github.com/google/nftables"
)

// filterName is the table of iptables that the engine filters in.
const filterName = "filter"

// lockWait is how many seconds to wait for the xtables lock.
const lockWait = 1

// An xtables is the filter table of one flavour and family.
type xtables struct {
	flavour Flavour
	v6      bool
	path    string
	ns      namespace
	ipt     *iptables.IPTables // nil until needed
}

// present says whether the flavour has a filter table, and which chains of it are
// there as far as that is known without running iptables, which would make one.
func (x *xtables) present(t *tables) (is bool, chains []string, _ error) {
	if x.flavour == FlavourNFT {
		family := nftables.TableFamilyIPv4
		if x.v6 {
			family = nftables.TableFamilyIPv6
		}
		if ok, err := t.exists(family, filterName); err != nil || !ok {
			return false, nil, err
		}
		chains, err := t.chains(family, filterName)
		return err == nil, chains, err
	}
	var names []byte
	err := x.ns.do(func() (err error) {
		names, err = os.ReadFile(legacyNames(x.v6))
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		return false, nil, nil
	}
	if err != nil {
		return false, nil, fmt.Errorf("looking for legacy iptables: %w", err)
	}
	return slices.Contains(strings.Fields(string(names)), filterName), nil, nil
}

// legacyNames is where the kernel lists the legacy tables of this thread's namespace.
func legacyNames(v6 bool) string {
	if v6 {
		return "/proc/thread-self/net/ip6_tables_names"
	}
	return "/proc/thread-self/net/ip_tables_names"
}

// use runs f with the program, in the namespace.
func (x *xtables) use(f func(*iptables.IPTables) error) error {
	return x.ns.do(func() error {
		if x.ipt == nil {
			family := iptables.ProtocolIPv4
			if x.v6 {
				family = iptables.ProtocolIPv6
			}
			ipt, err := iptables.New(iptables.IPFamily(family), iptables.Timeout(lockWait), iptables.Path(x.path))
			if err != nil {
				return fmt.Errorf("%s: %w: %w", x.path, ErrNoIPTables, err)
			}
			x.ipt = ipt
		}
		return f(x.ipt)
	})
}

// read returns what the filter table holds; not ok if it is not one that
// iptables understands. A process is started for each chain that weft reads, and
// one more where the chains are not known.
func (x *xtables) read(chains []string) (table filterTable, ok bool, _ error) {
	err := x.use(func(ipt *iptables.IPTables) error {
		var err error
		if x.flavour == FlavourLegacy {
			if chains, err = ipt.ListChains(filterName); err != nil {
				return err
			}
		}
		list := func(chain string, has *bool) []string {
			if *has = slices.Contains(chains, chain); !*has || err != nil {
				return nil
			}
			var rules []string
			rules, err = ipt.List(filterName, chain)
			return rules
		}
		forward := list(chainForward, &table.hasForward)
		table.dropsByDefault = len(forward) > 0 && forward[0] == "-P "+chainForward+" DROP"
		table.forward = onlyRules(forward)
		table.user = onlyRules(list(chainUser, &table.hasUser))
		table.ours = onlyRules(list(chainOurs, &table.hasOurs))
		return err
	})
	if err != nil && strings.Contains(err.Error(), "incompatible") {
		return filterTable{}, false, nil
	}
	if err != nil {
		return filterTable{}, false, fmt.Errorf("reading the filter table with %s: %w", x.path, err)
	}
	return table, true, nil
}

// onlyRules leaves out the lines that declare a chain or its policy.
func onlyRules(lines []string) []string {
	return slices.DeleteFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "-A ") })
}

// apply makes the edits in order. It does not stop at one that fails.
func (x *xtables) apply(es []edit) error {
	var errs []error
	for _, e := range es {
		err := x.use(func(ipt *iptables.IPTables) error {
			switch e.verb {
			case verbMake:
				return ipt.NewChain(filterName, e.chain)
			case verbClear:
				return ipt.ClearChain(filterName, e.chain)
			case verbAppend:
				return ipt.Append(filterName, e.chain, e.rule...)
			case verbInsert:
				return ipt.Insert(filterName, e.chain, 1, e.rule...)
			case verbDelete:
				return ipt.Delete(filterName, e.chain, e.rule...)
			}
			return ipt.DeleteChain(filterName, e.chain)
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s in chain %s with %s: %w", e.verb, e.chain, x.path, err))
		}
	}
	return errors.Join(errs...)
}
