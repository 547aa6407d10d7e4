package e2e_test

import (
	"strings"
	"testing"
)

// TestReset takes everything of weft's off a host that is full of it.
func TestReset(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		s.ownBridge()
		before := s.hostState()
		s.step("the daemon runs", func(s *site) {
			town := s.newTown()
			if out, err := s.Run(s.Context(), "weft", "reset"); err == nil || !strings.Contains(err.Error(), "--yes") {
				s.Errorf("weft reset should ask for --yes: %s %v", out, err)
			}
			s.open(town)
			s.MustRun(s, "weft", "reset", "--yes")
			s.nothingOfWeft()
			s.forgotten()
			// The address book is empty too, while the engine has its records still.
			s.network("again", "--ipam-driver", plugin, "--subnet", "10.92.0.0/24")
			s.quick("network", "rm", "again")
			s.afterReset(before)
		})
		s.step("the plugin is disabled", func(s *site) {
			s.newTown()
			s.must(s.DisablePlugin(s.Context(), true))
			s.MustRun(s, "weft", "reset", "--yes")
			s.nothingOfWeft()
			s.must(s.EnablePlugin(s.Context()))
			s.nothingOfWeft()
			s.forgotten()
			s.afterReset(before)
		})
		s.step("new networks", func(s *site) {
			s.open(s.newTown())
			s.clear("pub", "nat", "straight", "own")
			s.clean(before)
		})
	})
}

// afterReset removes the engine's own records.
func (s *site) afterReset(before string) {
	s.Helper()
	for _, c := range []string{"alfa", "bravo", "carla", "delta", "ernst", "nelly"} {
		s.quick("rm", "-f", c)
	}
	s.quick("network", "rm", "pub", "nat", "straight", "own")
	s.clean(before)
}

// nothingOfWeft looks for weft's links, addresses and rules of all kinds.
func (s *site) nothingOfWeft() {
	s.Helper()
	left := s.sh(`ip -o link show group 2003134068
ip -o link | grep -E ' (wf|wv|wp)-' || :
ip -o addr | grep 10.94.0.1/ || :
nft list ruleset | grep -i weft || :
for p in iptables ip6tables iptables-legacy ip6tables-legacy; do $p-save 2>/dev/null | grep -i weft || :; done
ss -Hltn 'sport = :8002 or sport = :8003 or sport = :8004'`)
	if strings.TrimSpace(left) != "" {
		s.Errorf("this is left of weft:\n%s", left)
	}
}
