//go:build !race

package firewall

import "time"

// raceSlack is what the race detector may cost.
const raceSlack = time.Duration(0)
