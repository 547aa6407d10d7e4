package firewall

import (
	"strings"
	"testing"
)

// TestDropByDefault: the policy is set where the engine filters, and nowhere else.
func TestDropByDefault(t *testing.T) {
	for _, flavour := range []Flavour{FlavourNFT, FlavourLegacy} {
		t.Run(string(flavour), func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			ctx := testContext(t)
			fw := newNFT(t, ns)
			ask := func(v6, want bool) {
				t.Helper()
				if got, err := fw.DropByDefault(ctx, v6); err != nil || got != want {
					t.Errorf("drops (IPv6: %t): %t, %v; want %t", v6, got, err, want)
				}
			}
			empty := ns.snapshot(t)
			ask(false, false)
			ask(true, false)
			if got := ns.snapshot(t); got != empty {
				t.Errorf("a filter table was made where there is none:\n%s", got)
			}
			// An engine that keeps IPv4 only, as before 27.0, and rules of somebody's in IPv6.
			ipt := "iptables-" + string(flavour)
			ns.engine(t, flavour)
			ns.sh(t, strings.ReplaceAll("iptX -P FORWARD ACCEPT; ip6tX -P FORWARD ACCEPT; ip6tX -D FORWARD -j DOCKER-USER", "tX", "tables-"+string(flavour)))
			others := ns.snapshot(t)
			ask(false, true)
			ask(true, false)
			if got, want := ns.sh(t, ipt+" -S FORWARD | head -1"), "-P FORWARD DROP\n"; got != want {
				t.Errorf("the policy is %q, want %q", got, want)
			}
			ask(false, true) // again
			ns.sh(t, ipt+" -P FORWARD ACCEPT")
			if got := ns.snapshot(t); got != others {
				t.Errorf("more than the policy changed; before:\n%s\nafter:\n%s", others, got)
			}
		})
	}
}
