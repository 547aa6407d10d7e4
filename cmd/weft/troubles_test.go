package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/engine"
)

// TestTroubleTexts: a network goes by its name, whoever knows that.
func TestTroubleTexts(t *testing.T) {
	id := func(letter string) string { return strings.Repeat(letter, 64) }
	networks := []driver.Network{
		{ID: id("a")}, {ID: id("b"), Shared: &driver.Shared{UUID: "1"}}, {ID: id("c"), Shared: &driver.Shared{UUID: "2"}}, {ID: id("d")},
	}
	record := func(uuid string) (directory.Network, bool) {
		return directory.Network{Name: map[string]string{"1": "far"}[uuid]}, uuid == "1"
	}
	names := networkNames(networks, []engine.Network{{ID: id("a"), Name: "near"}}, record)
	got := troubleTexts(map[string][]string{id("d"): {"x"}, id("c"): {"x"}, id("b"): {"x", "y"}, id("a"): {"x"}}, names)
	want := []string{"network near (aaaaaaaaaaaa): x", "network far (bbbbbbbbbbbb): x", "network far (bbbbbbbbbbbb): y", "network cccccccccccc: x", "network dddddddddddd: x"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
