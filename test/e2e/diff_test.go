package e2e_test

import (
	"fmt"
	"strings"

	"github.com/google/go-cmp/cmp"
)

// same is nil when two texts are equal, else their difference.
func same(want, got string) error {
	if want == got {
		return nil
	}
	return fmt.Errorf("state differs (-want +got):\n%s", cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
}
