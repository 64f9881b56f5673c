package object

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// The structs of this file carry every field of Istio's published API, so that
// a valid manifest never meets an unknown field. Which of them Cairn can honour
// is decided where they are translated.

// AuthorizationPolicy is security.istio.io AuthorizationPolicy.
type AuthorizationPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              AuthorizationPolicySpec `json:"spec"`
	Status            any                     `json:"status,omitempty"`
}

// AuthorizationPolicySpec is the policy itself.
type AuthorizationPolicySpec struct {
	Selector   *Selector           `json:"selector,omitempty"`
	TargetRef  *PolicyTarget       `json:"targetRef,omitempty"`
	TargetRefs []PolicyTarget      `json:"targetRefs,omitempty"`
	Rules      []*AuthzRule        `json:"rules,omitempty"`
	Action     string              `json:"action,omitempty"`
	Provider   *AuthzExtensionName `json:"provider,omitempty"`
}

// Selector is Istio's WorkloadSelector of policies.
type Selector struct {
	MatchLabels map[string]string `json:"matchLabels,omitempty"`
}

// PolicyTarget is Istio's PolicyTargetReference.
type PolicyTarget struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind,omitempty"`
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"`
}

// AuthzExtensionName names the provider of a CUSTOM policy.
type AuthzExtensionName struct {
	Name string `json:"name,omitempty"`
}

// AuthzRule is one rule.
type AuthzRule struct {
	From []AuthzFrom      `json:"from,omitempty"`
	To   []AuthzTo        `json:"to,omitempty"`
	When []AuthzCondition `json:"when,omitempty"`
}

// AuthzFrom wraps a source.
type AuthzFrom struct {
	Source *AuthzSource `json:"source,omitempty"`
}

// AuthzTo wraps an operation.
type AuthzTo struct {
	Operation *AuthzOperation `json:"operation,omitempty"`
}

// AuthzSource is who sends a request.
type AuthzSource struct {
	Principals           []string `json:"principals,omitempty"`
	NotPrincipals        []string `json:"notPrincipals,omitempty"`
	RequestPrincipals    []string `json:"requestPrincipals,omitempty"`
	NotRequestPrincipals []string `json:"notRequestPrincipals,omitempty"`
	Namespaces           []string `json:"namespaces,omitempty"`
	NotNamespaces        []string `json:"notNamespaces,omitempty"`
	ServiceAccounts      []string `json:"serviceAccounts,omitempty"`
	NotServiceAccounts   []string `json:"notServiceAccounts,omitempty"`
	TrustDomains         []string `json:"trustDomains,omitempty"`
	NotTrustDomains      []string `json:"notTrustDomains,omitempty"`
	IPBlocks             []string `json:"ipBlocks,omitempty"`
	NotIPBlocks          []string `json:"notIpBlocks,omitempty"`
	RemoteIPBlocks       []string `json:"remoteIpBlocks,omitempty"`
	NotRemoteIPBlocks    []string `json:"notRemoteIpBlocks,omitempty"`
}

// AuthzOperation is what a request asks for.
type AuthzOperation struct {
	Hosts      []string `json:"hosts,omitempty"`
	NotHosts   []string `json:"notHosts,omitempty"`
	Ports      []string `json:"ports,omitempty"`
	NotPorts   []string `json:"notPorts,omitempty"`
	Methods    []string `json:"methods,omitempty"`
	NotMethods []string `json:"notMethods,omitempty"`
	Paths      []string `json:"paths,omitempty"`
	NotPaths   []string `json:"notPaths,omitempty"`
}

// AuthzCondition is one entry of when.
type AuthzCondition struct {
	Key       string   `json:"key"`
	Values    []string `json:"values,omitempty"`
	NotValues []string `json:"notValues,omitempty"`
}

// PeerAuthentication is security.istio.io PeerAuthentication.
type PeerAuthentication struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              PeerAuthenticationSpec `json:"spec"`
	Status            any                    `json:"status,omitempty"`
}

// PeerAuthenticationSpec says whether plain text is accepted.
type PeerAuthenticationSpec struct {
	Selector      *Selector            `json:"selector,omitempty"`
	Mtls          *MutualTLS           `json:"mtls,omitempty"`
	PortLevelMtls map[uint32]MutualTLS `json:"portLevelMtls,omitempty"`
}

// MutualTLS holds the mode: UNSET, DISABLE, PERMISSIVE or STRICT.
type MutualTLS struct {
	Mode string `json:"mode,omitempty"`
}

// ServiceEntry is networking.istio.io ServiceEntry.
type ServiceEntry struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              ServiceEntrySpec `json:"spec"`
	Status            any              `json:"status,omitempty"`
}

// ServiceEntrySpec describes hosts that are not Kubernetes Services.
type ServiceEntrySpec struct {
	Hosts            []string            `json:"hosts"`
	Addresses        []string            `json:"addresses,omitempty"`
	Ports            []ServiceEntryPort  `json:"ports,omitempty"`
	Location         string              `json:"location,omitempty"`
	Resolution       string              `json:"resolution,omitempty"`
	Endpoints        []WorkloadEntrySpec `json:"endpoints,omitempty"`
	WorkloadSelector *EntrySelector      `json:"workloadSelector,omitempty"`
	ExportTo         []string            `json:"exportTo,omitempty"`
	SubjectAltNames  []string            `json:"subjectAltNames,omitempty"`
}

// EntrySelector is Istio's WorkloadSelector of networking kinds.
type EntrySelector struct {
	Labels map[string]string `json:"labels,omitempty"`
}

// ServiceEntryPort is one port of a ServiceEntry.
type ServiceEntryPort struct {
	Number     uint32 `json:"number"`
	Protocol   string `json:"protocol,omitempty"`
	Name       string `json:"name"`
	TargetPort uint32 `json:"targetPort,omitempty"`
}

// WorkloadEntry is networking.istio.io WorkloadEntry.
type WorkloadEntry struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              WorkloadEntrySpec `json:"spec"`
	Status            any               `json:"status,omitempty"`
}

// WorkloadEntrySpec is a machine, or an endpoint of a ServiceEntry.
type WorkloadEntrySpec struct {
	Address        string            `json:"address,omitempty"`
	Ports          map[string]uint32 `json:"ports,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Network        string            `json:"network,omitempty"`
	Locality       string            `json:"locality,omitempty"`
	Weight         uint32            `json:"weight,omitempty"`
	ServiceAccount string            `json:"serviceAccount,omitempty"`
}
