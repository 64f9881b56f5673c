package manifests

// meta is what every object carries.
type meta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	} `json:"metadata"`
}

// The kinds, with the fields that the translation understands.
type (
	plain struct { // Namespace, ServiceAccount
		meta
	}
	service struct {
		meta
		Spec struct {
			ClusterIP string            `json:"clusterIP"`
			Selector  map[string]string `json:"selector"`
			Ports     []servicePort     `json:"ports"`
		} `json:"spec"`
	}
	servicePort struct {
		Name        string `json:"name"`
		Port        uint16 `json:"port"`
		TargetPort  uint16 `json:"targetPort"`
		AppProtocol string `json:"appProtocol"`
	}
	pod struct {
		meta
		Spec struct {
			ServiceAccountName string `json:"serviceAccountName"`
			NodeName           string `json:"nodeName"`
			Containers         []struct {
				Name  string `json:"name"`
				Image string `json:"image"`
				Ports []struct {
					ContainerPort uint16 `json:"containerPort"`
				} `json:"ports"`
			} `json:"containers"`
		} `json:"spec"`
		Status struct {
			Phase  string `json:"phase"`
			PodIP  string `json:"podIP"`
			PodIPs []struct {
				IP string `json:"ip"`
			} `json:"podIPs"`
			Conditions []struct {
				Type   string `json:"type"`
				Status string `json:"status"`
			} `json:"conditions"`
		} `json:"status"`
	}
	gateway struct {
		meta
		Spec struct {
			GatewayClassName string `json:"gatewayClassName"`
			Listeners        []struct {
				Name     string `json:"name"`
				Port     uint16 `json:"port"`
				Protocol string `json:"protocol"`
			} `json:"listeners"`
		} `json:"spec"`
	}
	route struct {
		meta
		Spec struct {
			ParentRefs []reference `json:"parentRefs"`
			Rules      []routeRule `json:"rules"`
		} `json:"spec"`
	}
	routeRule struct {
		Matches []struct {
			Path struct {
				Type  string `json:"type"`
				Value string `json:"value"`
			} `json:"path"`
		} `json:"matches"`
		BackendRefs []reference `json:"backendRefs"`
	}
	reference struct {
		Group string `json:"group"`
		Kind  string `json:"kind"`
		Name  string `json:"name"`
		Port  uint16 `json:"port"`
	}
	policy struct {
		meta
		Spec struct {
			TargetRefs []reference `json:"targetRefs"`
			Action     string      `json:"action"`
			Rules      []struct {
				From []struct {
					Source struct {
						Principals []string `json:"principals"`
					} `json:"source"`
				} `json:"from"`
				To []struct {
					Operation struct {
						Methods []string `json:"methods"`
						Paths   []string `json:"paths"`
					} `json:"operation"`
				} `json:"to"`
			} `json:"rules"`
		} `json:"spec"`
	}
)
