package e2e_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/weft-net/weft/internal/admin"
)

func asText(v any) string {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// memory is everything that weft must not forget.
func (s *site) memory() string {
	s.Helper()
	return asText([]any{
		weftJSON[admin.Status](s, "status").HostID, weftJSON[[]admin.Network](s, "networks"),
		weftJSON[[]admin.Endpoint](s, "endpoints"), weftJSON[[]admin.Port](s, "ports"), weftJSON[[]admin.Pool](s, "ipam"),
	})
}

// TestUpgrade replaces the plugin as an operator does offline.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		s.ownBridge()
		town := s.newTown()
		beats := s.beats()
		before := s.memory()
		s.must(s.DisablePlugin(s.Context(), true))
		s.must(s.RemovePlugin(s.Context(), true))
		s.alive(beats...)
		s.must(s.InstallPlugin(s.Context(), pluginDir(s.TB)))
		if err := same(before, s.memory()); err != nil {
			s.Errorf("weft forgot: %v", err)
		}
		s.unharmed(beats...)
		s.open(town)
		s.reserved(town)
		s.day()
		// What the old plugin made, the new one takes away.
		for _, h := range town.houses {
			s.quick("rm", "-f", h.name)
		}
		s.docker("network", "rm", "pub", "nat", "straight", "own")
		s.forgotten()
		s.silent(s.fromOutside(), fmt.Sprintf("%s:%d", s.IPv4, town.houses[1].port))
	})
}
