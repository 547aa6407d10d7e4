package storetest

import (
	"context"
	"testing"

	"github.com/weft-net/weft/internal/testmain"
)

// Main runs the tests of a package in a network namespace of their own and
// returns the exit code. It fetches the servers first: inside there is no network.
func Main(m *testing.M) int {
	fetch := func() error {
		for _, version := range Versions() {
			if _, err := Binaries(context.Background(), version); err != nil {
				return err
			}
		}
		testmain.SweepDead(dataDirs)
		return nil
	}
	// Tests wait for servers more than they compute.
	return testmain.InNetwork(m, fetch, "-test.parallel=6")
}
