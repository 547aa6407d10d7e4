// Package config is the one typed configuration of the daemon. All of it comes
// from environment variables, because a managed plugin can be set up by nothing
// else (`docker plugin set weft:latest WEFT_LOG=debug`).
//
//	cfg, err := config.Parse(os.Environ())
//
// Parsing is strict: a bad value or an unknown WEFT_ variable is an error that
// names it. The package reads no file and no flag.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrSetting means that a variable has a bad value or is unknown.
var ErrSetting = errors.New("invalid setting")

// Config is what the environment says.
type Config struct {
	// Log is the level from which messages are written.
	Log slog.Level
	// Scope is what the engine is told: "local" or "global".
	Scope string
	// Pools is the text of WEFT_POOLS; package ipam gives it its meaning.
	Pools string
	// Store says which store the hosts of a cluster share; a zero one means that this
	// host is alone. Package store gives it its meaning.
	Store Store
	// Advertise is the address, or the network device with the address, by which other
	// hosts reach this one; empty for that of the default route.
	Advertise string
	// VXLANPort is the UDP port of overlay networks, the same on all hosts; 0 for the
	// default.
	VXLANPort uint16
	// Names says whether weft answers names inside containers.
	Names Names
}

// Names is where weft answers the names of containers on other hosts.
type Names string

// Values of WEFT_NAMES.
const (
	NamesOn  Names = "on"  // inside each container
	NamesOff Names = "off" // nowhere
	// NamesAddress is at this host's address in each network, for those who name it as a
	// DNS server to the engine.
	NamesAddress Names = "address"
)

// Store is the text of the settings WEFT_STORE and WEFT_STORE_*.
type Store struct {
	Endpoints, CA, Cert, Key, User, Password string
}

// A Setting is one variable.
type Setting struct {
	Name, Default, Help string
	set                 func(c *Config, value string) error
}

// Settings lists every variable in the order of the manual.
func Settings() []Setting {
	return []Setting{
		{"WEFT_LOG", "info", "log level: debug, info, warn or error", setLog},
		{"WEFT_SCOPE", "local", "scope that the engine is told: local, or global for Swarm-managed options", setScope},
		{"WEFT_POOLS", "", "pools for networks without --subnet: base/size, comma-separated, for instance 10.10.0.0/16/24,fd00:1::/48/64", setPools},
		{"WEFT_STORE", "", "etcd that the hosts of a cluster share, for instance etcd://h1:2379,h2:2379; empty for a host on its own",
			func(c *Config, v string) error { c.Store.Endpoints = v; return nil }},
		{"WEFT_STORE_CA", "", "PEM file with the authority of the store's certificates, below /var/lib", file(func(c *Config) *string { return &c.Store.CA })},
		{"WEFT_STORE_CERT", "", "PEM file with this host's certificate for the store, below /var/lib", file(func(c *Config) *string { return &c.Store.Cert })},
		{"WEFT_STORE_KEY", "", "PEM file with the key of WEFT_STORE_CERT, below /var/lib", file(func(c *Config) *string { return &c.Store.Key })},
		{"WEFT_STORE_USER", "", "user name for the store", func(c *Config, v string) error { c.Store.User = v; return nil }},
		{"WEFT_STORE_PASSWORD", "", "password for the store", func(c *Config, v string) error { c.Store.Password = v; return nil }},
		{"WEFT_ADVERTISE", "", "address or network device by which other hosts reach this one; empty for that of the default route", setAdvertise},
		{"WEFT_VXLAN_PORT", "8476", "UDP port of overlay networks, the same on all hosts", setVXLANPort},
		{"WEFT_NAMES", "on", "where the names of containers on other hosts are answered: on (in each container), address (port 53 of this host's address in each network) or off", setNames},
	}
}

// file sets a path, which a plugin sees only where the host is mounted.
func file(to func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		if !filepath.IsAbs(v) {
			return errors.New("use an absolute path")
		}
		*to(c) = v
		return nil
	}
}

func setLog(c *Config, v string) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	l, ok := levels[v]
	if !ok {
		return errors.New("use debug, info, warn or error")
	}
	c.Log = l
	return nil
}

func setScope(c *Config, v string) error {
	if v != "local" && v != "global" {
		return errors.New("use local or global")
	}
	c.Scope = v
	return nil
}

func setPools(c *Config, v string) error {
	c.Pools = v
	return nil
}

// setAdvertise takes an address, or what could be the name of a device.
func setAdvertise(c *Config, v string) error {
	if a, err := netip.ParseAddr(v); err == nil && (a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Zone() != "") {
		return errors.New("use a unicast address of this host that other hosts reach")
	} else if err != nil && (len(v) > 15 || strings.ContainsAny(v, "/: \t")) {
		return errors.New("use an address of this host, or the name of the network device that has it")
	}
	c.Advertise = v
	return nil
}

func setVXLANPort(c *Config, v string) error {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n < 1024 || n > 49151 {
		return errors.New("use 1024 to 49151")
	}
	c.VXLANPort = uint16(n)
	return nil
}

func setNames(c *Config, v string) error {
	c.Names = Names(v)
	if c.Names != NamesOn && c.Names != NamesOff && c.Names != NamesAddress {
		return errors.New("use on, off or address")
	}
	return nil
}

// Parse reads NAME=value pairs; an empty value is the default.
func Parse(environ []string) (Config, error) {
	var c Config
	given := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "WEFT_") {
			given[name] = value
		}
	}
	var names []string
	for _, s := range Settings() {
		names = append(names, s.Name)
		v := given[s.Name]
		delete(given, s.Name)
		if v == "" {
			v = s.Default
		}
		if v == "" {
			continue
		}
		if err := s.set(&c, v); err != nil {
			return c, fmt.Errorf("%w: %s=%q: %w", ErrSetting, s.Name, v, err)
		}
	}
	if c.Store.Endpoints == "" && c.Store != (Store{}) {
		return c, fmt.Errorf("%w: WEFT_STORE is empty, but other settings of the store are not: set it too", ErrSetting)
	}
	for name := range given {
		slices.Sort(names)
		return c, fmt.Errorf("%w: %s is unknown; there are %s", ErrSetting, name, strings.Join(names, ", "))
	}
	return c, nil
}
