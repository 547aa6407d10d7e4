package driver

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// An Option is one key that `-o` takes.
type Option struct {
	Name string
	// Check refuses a malformed value; nil takes every value. The option's name
	// and value are added to the error.
	Check func(value string) error
	// Help is one line for the manual.
	Help string
}

// Options that networks of every mode take.
func commonOptions(modes []string) []Option {
	return []Option{
		{Name: "mode", Check: OneOf(modes...), Help: "sort of network"},
		{Name: "com.docker.network.enable_ipv4", Check: Bool, Help: "IPv4 on or off (read by the engine)"},
		{Name: "com.docker.network.enable_ipv6", Check: Bool, Help: "IPv6 on or off (read by the engine)"},
		{Name: "com.docker.network.advertise_addr_nmsgs", Help: "announcements per address (read by the engine)"},
		{Name: "com.docker.network.advertise_addr_ms", Help: "milliseconds between them (read by the engine)"},
	}
}

// endpointOptions are the keys that `--driver-opt` takes.
func endpointOptions() []Option {
	return []Option{
		{Name: "com.docker.network.endpoint.ifname", Check: InterfaceName, Help: "name of the interface in the container"},
		{Name: "com.docker.network.endpoint.sysctls", Help: "net.ipv4.conf.IFNAME.log_martians=1,…"},
	}
}

// OneOf makes a check for a closed list of values.
func OneOf(values ...string) func(string) error {
	return func(v string) error {
		if slices.Contains(values, v) {
			return nil
		}
		return fmt.Errorf("use %s", strings.Join(values, ", "))
	}
}

// Bool checks what strconv.ParseBool accepts.
func Bool(v string) error {
	_, err := ParseBool(v)
	return err
}

// ParseBool reads a boolean as Docker does.
func ParseBool(v string) (bool, error) {
	switch v {
	case "1", "t", "T", "true", "TRUE", "True":
		return true, nil
	case "0", "f", "F", "false", "FALSE", "False":
		return false, nil
	}
	return false, fmt.Errorf("use true or false")
}

// InterfaceName checks the name of a network device.
func InterfaceName(v string) error {
	return deviceName(v, 15) // IFNAMSIZ less the final zero
}

// AnyInterfaceName is InterfaceName that also takes the alternative names of a device, which
// may be longer.
func AnyInterfaceName(v string) error {
	return deviceName(v, 127) // ALTIFNAMSIZ less the final zero
}

func deviceName(v string, most int) error {
	switch {
	case v == "" || v == "." || v == "..":
		return fmt.Errorf("it is not a device name")
	case len(v) > most:
		return fmt.Errorf("it has %d bytes, a device name has at most %d", len(v), most)
	case strings.ContainsAny(v, "/: \t\n\v\f\r%"):
		return fmt.Errorf("a device name has no slash, colon, percent sign or space")
	}
	return nil
}

// checkOptions refuses unknown keys and malformed values. Unknown keys of
// Docker's own (com.docker.*) are returned instead, for the log.
func checkOptions(what string, given map[string]string, known []Option) (ignored []string, err error) {
	table := make(map[string]Option, len(known))
	for _, o := range known {
		table[o.Name] = o
	}
	for _, key := range slices.Sorted(maps.Keys(given)) {
		o, ok := table[key]
		switch {
		case ok && o.Check != nil:
			if err := o.Check(given[key]); err != nil {
				return ignored, fmt.Errorf("%w: %s=%q: %w", ErrOption, key, given[key], err)
			}
		case ok:
		case strings.HasPrefix(key, "com.docker."):
			ignored = append(ignored, key)
		default:
			return ignored, unknownOption(what, key, known)
		}
	}
	return ignored, nil
}

func unknownOption(what, key string, known []Option) error {
	best, distance := "", len(key)
	for _, o := range known {
		if d := editDistance(key, o.Name); d < distance {
			best, distance = o.Name, d
		}
		// The last word of a long name is what people remember.
		if _, tail, ok := cutLast(o.Name, "."); ok {
			if d := editDistance(key, tail); d < distance {
				best, distance = o.Name, d
			}
		}
	}
	err := fmt.Errorf("%w: %s has no option %q", ErrOption, what, key)
	if best == "" {
		return err
	}
	return WithHint(err, "did you mean %q?", best)
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// editDistance is the Levenshtein distance in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost = 1 + min(prev, row[j], row[j+1])
			}
			prev, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
