package ipam

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// Domains with a meaning of their own.
const (
	// DomainCluster is the domain of a pool without --ipam-opt domain.
	DomainCluster = "cluster"
	// DomainHost is the domain of pools that stay this host's own.
	DomainHost = "host"
)

const optDomain = "domain"

// parseOptions reads --ipam-opt settings and returns the domain.
func parseOptions(options map[string]string, log *slog.Logger) (domain string, err error) {
	domain = DomainCluster
	for _, key := range slices.Sorted(maps.Keys(options)) {
		value := options[key]
		switch {
		case key == optDomain:
			if !validDomain(value) {
				return "", refuse(ErrOption, "use domain=host or a name of up to 63 letters, digits, dots, dashes and underscores",
					"%q is not the name of a domain", value)
			}
			domain = value
		case key == optNet: // see withSubnet
		case key == "RequestAddressType" || strings.HasPrefix(key, "com.docker."):
			// The Swarm leader's map of options carries its own keys from call to call.
			log.Debug("ignored an option of the engine", "option", key)
		default:
			return "", refuse(ErrOption, "did you mean domain? the keys are domain (domain=host or domain=NAME) and net (net=NAME)", "unknown key %q", key)
		}
	}
	return domain, nil
}

// validDomain reports whether s can name a domain: it becomes a part of PoolIDs.
func validDomain(s string) bool {
	const longest = 63
	return validName(s, longest)
}

// validName reports whether s is a name of at most so many bytes, as engines write them.
func validName(s string, longest int) bool {
	if len(s) < 1 || len(s) > longest {
		return false
	}
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("-_.", r)) {
			return false
		}
	}
	return true
}
